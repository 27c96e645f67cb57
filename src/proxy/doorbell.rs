//! A waker that does not wake a task for what the task has just done itself.
//!
//! Both ends of an exchange live in one task: the client's connection hands the request's body over through a channel, and
//! so does the node's with the answer's. Whoever takes a part out of such a channel wakes whoever put it in, which is the
//! task that is running. Unheeded, each exchange would be polled four times where two are enough.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, ThreadId};

/// One for each task: made, polled and muffled on its thread; rung from anywhere.
#[derive(Debug)]
pub struct Doorbell {
    task: Mutex<Waker>,
    owner: ThreadId,
    muffled: AtomicBool,
    rung: AtomicBool,
}

impl Doorbell {
    /// For the task that makes it.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            task: Mutex::new(Waker::noop().clone()),
            owner: thread::current().id(),
            muffled: AtomicBool::new(false),
            rung: AtomicBool::new(false),
        })
    }

    /// Polls a part of the task with this in place of the task's own waker. `waker` is a clone of this one.
    pub fn poll<F: Future>(&self, waker: &Waker, future: Pin<&mut F>, context: &mut Context<'_>) -> Poll<F::Output> {
        {
            let mut task = self.task();
            if !task.will_wake(context.waker()) {
                task.clone_from(context.waker());
            }
        }
        future.poll(&mut Context::from_waker(waker))
    }

    /// Does something that may ring for nothing. True if it did ring.
    pub fn muffle<T>(&self, work: impl FnOnce() -> T) -> (T, bool) {
        self.muffled.store(true, Ordering::Relaxed);
        let done = work();
        self.muffled.store(false, Ordering::Relaxed);
        (done, self.rung.swap(false, Ordering::Relaxed))
    }

    /// Wakes the task after all.
    pub fn ring(&self) {
        self.task().wake_by_ref();
    }

    fn task(&self) -> MutexGuard<'_, Waker> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Doorbell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // What rings from another thread has nothing to do with what is done here.
        if self.muffled.load(Ordering::Relaxed) && thread::current().id() == self.owner {
            self.rung.store(true, Ordering::Relaxed);
        } else {
            self.ring();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn only_what_the_task_does_itself_is_muffled() {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let (outer, bell) = (Waker::from(count.clone()), Doorbell::new());
        let waker = Waker::from(bell.clone());
        let polled = bell.poll(&waker, std::pin::pin!(std::future::ready(1)), &mut Context::from_waker(&outer));
        assert_eq!(polled, Poll::Ready(1));
        waker.wake_by_ref();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(bell.muffle(|| waker.wake_by_ref()), ((), true));
        assert_eq!(bell.muffle(|| ()), ((), false));
        assert_eq!(count.0.load(Ordering::Relaxed), 1, "muffled");
        let elsewhere = waker.clone();
        bell.muffle(|| thread::spawn(move || elsewhere.wake()).join().expect("it only rings"));
        assert_eq!(count.0.load(Ordering::Relaxed), 2, "rung from another thread");
        bell.ring();
        assert_eq!(count.0.load(Ordering::Relaxed), 3);
    }
}
