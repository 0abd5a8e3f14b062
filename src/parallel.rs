//! The same work for many things, on all cores.

use std::sync::atomic::{AtomicUsize, Ordering};

/// What `work` makes of each item, in the order of the items. A panic of one is passed on.
pub fn map<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    map_with(items, || (), |(), item| work(item))
}

/// As [`map`], with something of its own for each core, such as a buffer.
pub fn map_with<T: Sync, R: Send, O>(
    items: &[T],
    own: impl Fn() -> O + Sync,
    work: impl Fn(&mut O, &T) -> R + Sync,
) -> Vec<R> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let share = || {
        let (mut own, mut done) = (own(), Vec::new());
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(number) else {
                return done;
            };
            done.push((number, work(&mut own, item)));
        }
    };
    let mut all: Vec<(usize, R)> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..cores.min(items.len()))
            .map(|_| scope.spawn(share))
            .collect();
        let mut all = share();
        for other in others {
            match other.join() {
                Ok(done) => all.extend(done),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    });
    all.sort_by_key(|(number, _)| *number);
    all.into_iter().map(|(_, made)| made).collect()
}

/// As [`map`], of many items that take next to no time each.
pub fn map_small<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    /// Items that a core takes at a time.
    const SHARE: usize = 500;
    let shares: Vec<&[T]> = items.chunks(SHARE).collect();
    let made = map(&shares, |share| share.iter().map(&work).collect::<Vec<R>>());
    made.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::{map, map_small};

    #[test]
    fn each_item_is_done_once_and_the_order_stays() {
        let items: Vec<u64> = (0..1000).collect();
        let squares = map(&items, |number| number * number);
        assert!(
            squares
                .iter()
                .enumerate()
                .all(|(n, square)| (n * n) as u64 == *square)
        );
        assert_eq!(map_small(&items, |number| number * number), squares);
        assert_eq!(map(&[] as &[u8], |byte| *byte), [] as [u8; 0]);
    }

    #[test]
    #[should_panic(expected = "seven")]
    fn a_panic_is_passed_on() {
        let items: Vec<u32> = (0..100).collect();
        map(&items, |number| assert_ne!(*number, 7, "seven"));
    }
}
