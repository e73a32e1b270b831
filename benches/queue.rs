//! What does one hand-over through a bounded channel cost? The price of every chunk at every seam of the pipeline.
//!
//! ```sh
//! cargo bench --bench queue
//! ```
//!
//! Items a second, over the depth of the queue and over how many take from it. An item is as large as what travels in
//! the pipeline, some pointers and lengths: the bytes of a chunk stay where they are. Depth 0 is a rendezvous.

use std::hint::black_box;
use std::thread;

use crossbeam::channel::bounded;
use divan::Bencher;
use divan::counter::ItemsCount;

fn main() {
    divan::main();
}

/// About the size of a chunk between two stages.
type Item = [u64; 12];

/// Enough for the start of the threads to vanish among them.
const ITEMS: usize = 20_000;

const DEPTHS: [usize; 5] = [0, 1, 4, 16, 64];

/// The floor: what the two calls cost if nobody waits and nobody else is there.
#[divan::bench]
fn alone(bencher: Bencher<'_, '_>) {
    let (sender, receiver) = bounded::<Item>(1);
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        sender.send(black_box([0; 12])).expect("the receiver is held here");
        receiver.recv().expect("the sender is held here")
    });
}

#[divan::bench(args = DEPTHS)]
fn to_one_worker(bencher: Bencher<'_, '_>, depth: usize) {
    hand_over(bencher, depth, 1);
}

#[divan::bench(args = DEPTHS)]
fn to_four_workers(bencher: Bencher<'_, '_>, depth: usize) {
    hand_over(bencher, depth, 4);
}

/// One sends, `workers` take: the seam before a stage.
fn hand_over(bencher: Bencher<'_, '_>, depth: usize, workers: usize) {
    bencher.counter(ItemsCount::new(ITEMS)).bench_local(|| {
        let (sender, receiver) = bounded::<Item>(depth);
        thread::scope(|scope| {
            for _ in 0..workers {
                let receiver = receiver.clone();
                scope.spawn(move || {
                    for item in receiver {
                        black_box(item);
                    }
                });
            }
            drop(receiver);
            for number in 0..20_000 {
                sender.send([number; 12]).expect("the workers take until the sender is gone");
            }
            drop(sender);
        });
    });
}
