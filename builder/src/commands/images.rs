//! What the store has: `images`, `inspect`, `history`, `tag`, `rmi`.

use std::io::Write;

use anyhow::{Context, Result};
use lapstrake_cache::Store;
use lapstrake_frontend::image::ImageRef;
use serde_json::{Value, json};

use super::table::{Table, age, bytes, short};
use crate::cli::{Format, HistoryOptions, ImagesOptions};
use crate::stored::{self, Stored, StoredImage};

/// Lists the images of the store.
pub(super) fn images(store: &Store, options: &ImagesOptions, out: &mut dyn Write) -> Result<()> {
    let ImagesOptions {
        repository,
        format,
        digests,
        no_trunc,
        quiet,
    } = options;
    let mut found = stored::all(store)?;
    if let Some(wanted) = repository {
        let wanted: ImageRef = wanted
            .parse()
            .with_context(|| format!("read the name {wanted:?}"))?;
        let tagged = repository.as_ref().is_some_and(|text| {
            text.ends_with(&format!(":{}", wanted.tag.as_deref().unwrap_or_default()))
        });
        found.retain(|stored| {
            stored.name.name() == wanted.name() && (!tagged || stored.name.tag == wanted.tag)
        });
    }
    let mut rows = found
        .iter()
        .flat_map(|stored| stored.images.iter().map(move |image| (stored, image)));
    let id = |image: &StoredImage| {
        if *no_trunc {
            image.id().to_string()
        } else {
            short(&image.id())
        }
    };
    if *quiet {
        return rows.try_for_each(|(_, image)| Ok(writeln!(out, "{}", id(image))?));
    }
    if *format == Format::Json {
        return rows
            .try_for_each(|(stored, image)| Ok(writeln!(out, "{}", summary(stored, image))?));
    }
    let mut heads = vec![
        "REPOSITORY",
        "TAG",
        "IMAGE ID",
        "CREATED",
        "SIZE",
        "PLATFORM",
    ];
    if *digests {
        heads.insert(2, "DIGEST");
    }
    let mut table = Table::new(&heads);
    for (stored, image) in rows {
        let mut row = vec![
            stored.name.familiar_name(),
            stored.name.tag.clone().unwrap_or_else(|| "<none>".into()),
            id(image),
            image
                .config
                .created
                .as_deref()
                .map_or_else(|| "-".into(), age),
            bytes(image.size()),
            image.platform().to_string(),
        ];
        if *digests {
            row.insert(2, stored.digest.to_string());
        }
        table.row(row);
    }
    Ok(write!(out, "{table}")?)
}

fn summary(stored: &Stored, image: &StoredImage) -> Value {
    json!({
        "Repository": stored.name.familiar_name(),
        "Tag": stored.name.tag,
        "Digest": stored.digest.to_string(),
        "ID": image.id().to_string(),
        "CreatedAt": image.config.created,
        "Size": image.size(),
        "Platform": image.platform().to_string(),
    })
}

/// Prints all that is known of images, as `docker image inspect` does.
pub(super) fn inspect(store: &Store, names: &[String], out: &mut dyn Write) -> Result<()> {
    let mut all = Vec::new();
    for name in names {
        let stored = stored::find(store, name)?;
        for image in &stored.images {
            all.push(details(&stored, image)?);
        }
    }
    writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
    Ok(())
}

fn details(stored: &Stored, image: &StoredImage) -> Result<Value> {
    let config: Value =
        serde_json::from_slice(&image.config_bytes).context("read the image's config")?;
    Ok(json!({
        "Id": image.id().to_string(),
        "RepoTags": [stored.name.to_string()],
        "RepoDigests": [format!("{}@{}", stored.name.familiar_name(), stored.digest)],
        "Created": image.config.created,
        "Author": image.config.author,
        "Architecture": image.config.architecture,
        "Variant": image.config.variant,
        "Os": image.config.os,
        "Size": image.size(),
        "Config": config.get("config"),
        "RootFS": { "Type": "layers", "Layers": image.config.rootfs.diff_ids },
        "Manifest": serde_json::to_value(&image.manifest)?,
    }))
}

/// Prints how an image came about, newest step first.
pub(super) fn history(store: &Store, options: &HistoryOptions, out: &mut dyn Write) -> Result<()> {
    let HistoryOptions {
        image,
        format,
        human,
        no_trunc: whole,
        quiet,
    } = options;
    let stored = stored::find(store, image)?;
    let image = stored
        .images
        .first()
        .context("the image has no platform in the store")?;
    let mut sizes = image.manifest.layers.iter().map(|layer| layer.size);
    let mut rows = Vec::new();
    for entry in &image.config.history {
        let size = if entry.empty_layer {
            Some(0)
        } else {
            sizes.next()
        };
        let created = entry.created.as_deref().unwrap_or("-");
        let created = if *human {
            age(created)
        } else {
            created.to_owned()
        };
        let by = if *whole {
            entry.created_by.clone()
        } else {
            clip(&entry.created_by, 45)
        };
        let size = size.unwrap_or(0);
        let size = if *human {
            bytes(size)
        } else {
            size.to_string()
        };
        rows.push(vec![
            "<missing>".into(),
            created,
            by,
            size,
            entry.comment.clone(),
        ]);
    }
    if let Some(last) = rows.last_mut() {
        last[0] = if *whole {
            image.id().to_string()
        } else {
            short(&image.id())
        };
    }
    if *quiet {
        return rows
            .iter()
            .rev()
            .try_for_each(|row| Ok(writeln!(out, "{}", row[0])?));
    }
    if *format == Format::Json {
        let json = |row: &Vec<String>| json!({ "ID": row[0], "CreatedAt": row[1], "CreatedBy": row[2], "Size": row[3], "Comment": row[4] });
        return rows
            .iter()
            .rev()
            .try_for_each(|row| Ok(writeln!(out, "{}", json(row))?));
    }
    let mut table = Table::new(&["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"]);
    rows.into_iter().rev().for_each(|row| table.row(row));
    Ok(write!(out, "{table}")?)
}

fn clip(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width - 1).chain(['…']).collect()
}

/// Gives an image another name.
pub(super) fn tag(store: &Store, source: &str, target: &ImageRef) -> Result<()> {
    let stored = stored::find(store, source)?;
    crate::sink::name_in_store(store, target, &stored.digest)
}

/// Removes names. What they stood for is removed by `prune`.
pub(super) fn rmi(store: &Store, names: &[String], force: bool, out: &mut dyn Write) -> Result<()> {
    for name in names {
        match stored::find(store, name) {
            Ok(stored) => {
                store.remove_ref(&stored.name.canonical())?;
                writeln!(out, "Untagged: {}", stored.name)?;
            }
            Err(_) if force => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::clip;

    #[test]
    fn long_texts_are_cut_at_characters() {
        assert_eq!(clip("äöü", 3), "äöü");
        assert_eq!(clip("äöüß", 3), "äö…");
    }
}
