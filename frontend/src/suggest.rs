//! "Did you mean": the nearest of some names.

/// Names further away than this are no help.
const MAX_DISTANCE: usize = 2;

/// Longer words are not compared.
const MAX_LENGTH: usize = 64;

/// Of more options the rest is not looked at.
const MAX_OPTIONS: usize = 1000;

/// The option nearest to `word`; none if `word` itself is an option.
pub fn nearest<'a>(word: &str, options: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > MAX_LENGTH {
        return None;
    }
    let mut best = None;
    let mut limit = MAX_DISTANCE + 1;
    for option in options.into_iter().take(MAX_OPTIONS) {
        if option.len().abs_diff(word.len()) > 4 * MAX_DISTANCE {
            continue;
        }
        let distance = distance(word, option);
        if distance == 0 {
            return None;
        }
        if distance < limit {
            (best, limit) = (Some(option), distance);
        }
    }
    best
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().take(MAX_LENGTH * 2).collect();
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_near_names() {
        assert_eq!(nearest("COPPY", ["COPY", "RUN"]), Some("COPY"));
        assert_eq!(nearest("chwon", ["chmod", "chown"]), Some("chown"));
        assert_eq!(nearest("COPY", ["COPY", "COPI"]), None);
        assert_eq!(nearest("EXPOSE", ["RUN"]), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
