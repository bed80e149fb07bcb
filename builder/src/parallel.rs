//! Threads for work that blocks. rayon's own must not be used for it: what it waits for may be queued behind it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Builder;

use anyhow::Result;

/// Applies `f` to all items on up to `threads` threads, on this one where one is enough; results in order, or the first error.
pub(crate) fn map<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    f: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    if threads.min(items.len()) <= 1 {
        return items.iter().map(f).collect();
    }
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<Result<R>>>> = items.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let (Some(item), Some(slot)) = (items.get(index), results.get(index)) else {
                    break;
                };
                let result = f(item);
                if result.is_err() {
                    next.store(items.len(), Ordering::Relaxed);
                }
                if let Ok(mut slot) = slot.lock() {
                    *slot = Some(result);
                }
            }
        };
        let start = |_: &usize| Builder::new().spawn_scoped(scope, work).is_ok();
        // Where no thread can be had, this one does it all.
        if (0..threads.min(items.len())).take_while(start).count() == 0 {
            work();
        }
    });
    // After an error later items were not begun: the error comes before them.
    results
        .into_iter()
        .filter_map(|slot| slot.into_inner().ok().flatten())
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::map;

    #[test]
    fn results_keep_their_order_and_errors_end_it() {
        let items: Vec<u32> = (0..100).collect();
        assert_eq!(
            map(&items, 4, |n| Ok(n * 2)).unwrap(),
            (0..100).map(|n| n * 2).collect::<Vec<_>>()
        );
        assert!(
            map(&items, 4, |n| if *n == 50 {
                anyhow::bail!("no")
            } else {
                Ok(())
            })
            .is_err()
        );
    }
}
