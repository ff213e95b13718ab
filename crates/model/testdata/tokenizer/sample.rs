//! Code to be tokenised: a bounded queue between threads.
#![allow(dead_code)]

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};

/// At most `N` items wait; `push` blocks while it is full.
pub struct Queue<T, const N: usize> {
    items: Mutex<VecDeque<T>>,
    not_empty: Condvar,
    not_full: Condvar,
}

impl<T: Send + 'static, const N: usize> Queue<T, N> {
    pub const fn new() -> Self {
        Self { items: Mutex::new(VecDeque::new()), not_empty: Condvar::new(), not_full: Condvar::new() }
    }

    pub fn push(&self, item: T) -> usize {
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        while items.len() >= N {
            items = self.not_full.wait(items).unwrap();
        }
        items.push_back(item);
        self.not_empty.notify_one();
        items.len()
    }

    pub fn pop_if(&self, mut wanted: impl FnMut(&T) -> bool) -> Option<T> {
        let mut items = self.items.lock().ok()?;
        let idx = items.iter().position(|item| wanted(item))?;
        let item = items.remove(idx);
        self.not_full.notify_all();
        item
    }
}

macro_rules! max {
    ($x:expr $(,)?) => { $x };
    ($x:expr, $($rest:expr),+ $(,)?) => {{ let (a, b) = ($x, max!($($rest),+)); if a > b { a } else { b } }};
}

fn main() {
    static QUEUE: Queue<(u8, &'static str), 4> = Queue::new();
    let n = max!(1_u64, 0xFF, 0b1010, 1 << 7);
    for (i, word) in "l'été — наступило 夏天 \u{1F31E}".split_whitespace().enumerate().take(3) {
        QUEUE.push((i as u8, word));
    }
    let r#type = QUEUE.pop_if(|&(i, _)| i % 2 == 1).map_or_else(|| b'\0'.into(), |(_, w)| w.len());
    println!("{n:>8.3e} {type:#?} {0:?} {{}}", 'x'..='\u{7f}', r#type = r#type);
}
