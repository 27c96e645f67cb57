//! How an answer that waits learns of its commit. The writer keeps dozens of pledges at one time, and wakes each runtime
//! that waits for some of them once.
//!
//! Why not tokio's oneshot channel: from another thread each send wakes the runtime by a system call of its own.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::runtime::Handle;

/// The writer's end: either kept, with others, by [`keep`], or broken by dropping it.
#[derive(Debug)]
pub struct Pledge(Arc<Mutex<State>>);

/// The end of whoever waits: true once the pledge is kept, false once it is broken.
///
/// In a task of a tokio runtime, or where there is none: a runtime that is entered and not run wakes nobody.
#[derive(Debug)]
pub struct Kept(Arc<Mutex<State>>);

#[derive(Debug)]
enum State {
    Open(Option<Waiter>),
    Kept,
    Broken,
}

/// Whom to wake, and where that is cheap.
#[derive(Debug)]
struct Waiter {
    waker: Waker,
    runtime: Option<Handle>,
}

/// A pledge and what to wait for it by.
pub fn pledge() -> (Pledge, Kept) {
    let state = Arc::new(Mutex::new(State::Open(None)));
    (Pledge(state.clone()), Kept(state))
}

/// Keeps pledges: all of them first, then every runtime is woken once and wakes its own tasks.
pub fn keep(pledges: impl IntoIterator<Item = Pledge>) {
    let mut asleep: Vec<(Handle, Vec<Waker>)> = Vec::new();
    for Waiter { waker, runtime } in pledges.into_iter().filter_map(|pledge| pledge.settle(State::Kept)) {
        let Some(runtime) = runtime else {
            waker.wake();
            continue;
        };
        match asleep.iter_mut().find(|(known, _)| known.id() == runtime.id()) {
            Some((_, wakers)) => wakers.push(waker),
            None => asleep.push((runtime, vec![waker])),
        }
    }
    for (runtime, wakers) in asleep {
        runtime.spawn(async { wakers.into_iter().for_each(Waker::wake) });
    }
}

impl Pledge {
    /// Settles it, unless it is settled. Returns who waits for that.
    fn settle(&self, settled: State) -> Option<Waiter> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *state {
            State::Open(waiter) => {
                let waiter = waiter.take();
                *state = settled;
                waiter
            }
            State::Kept | State::Broken => None,
        }
    }
}

impl Drop for Pledge {
    fn drop(&mut self) {
        if let Some(waiter) = self.settle(State::Broken) {
            waiter.waker.wake();
        }
    }
}

impl Future for Kept {
    type Output = bool;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<bool> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *state {
            State::Kept => Poll::Ready(true),
            State::Broken => Poll::Ready(false),
            State::Open(waiter) => {
                // A runtime's own tasks may be polled in another one the next time.
                *waiter = Some(Waiter { waker: context.waker().clone(), runtime: Handle::try_current().ok() });
                Poll::Pending
            }
        }
    }
}

impl Drop for Kept {
    /// Whoever has left is not woken, and its task is not kept in memory while the file takes nothing.
    fn drop(&mut self) {
        if let State::Open(waiter) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            *waiter = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, Sender};
    use std::task::Wake;
    use std::time::Duration;

    use tokio::runtime::Builder;
    use tokio::task::{JoinSet, yield_now};
    use tokio::time::timeout;

    use super::*;

    /// Nobody waits so long but whoever was forgotten.
    const TOO_LONG: Duration = Duration::from_secs(20);
    const WAITERS: usize = 210;

    /// Tasks that wait at one time: some of them leave before they are told, some pledges are to be broken.
    async fn wait(pledges: Sender<(Pledge, bool)>) -> (usize, usize) {
        let mut waiting = JoinSet::new();
        for n in 0..WAITERS {
            let (pledge, kept) = pledge();
            let task = waiting.spawn(kept);
            yield_now().await;
            if n % 7 == 0 {
                task.abort();
            }
            pledges.send((pledge, n % 5 != 0)).expect("whoever keeps them takes all");
        }
        drop(pledges);
        let mut told = (0, 0);
        // The time is not theirs: a task that it wakes would find its pledge kept.
        while let Some(ended) = timeout(TOO_LONG, waiting.join_next()).await.expect("somebody was forgotten") {
            match ended {
                Ok(true) => told.0 += 1,
                Ok(false) => told.1 += 1,
                Err(left) => assert!(left.is_cancelled(), "{left}"),
            }
        }
        told
    }

    /// Keeps pledges so many at a time, of several runtimes at once.
    fn check(batch: usize) {
        let (pledges, made) = mpsc::channel();
        let runtimes = [Builder::new_current_thread(), Builder::new_current_thread(), Builder::new_multi_thread()];
        let waiting = runtimes.map(|mut builder| {
            let pledges = pledges.clone();
            let runtime = builder.enable_all().build().expect("a runtime");
            std::thread::spawn(move || runtime.block_on(wait(pledges)))
        });
        drop(pledges);
        let mut together = Vec::new();
        for (pledge, is_kept) in made {
            if is_kept {
                together.push(pledge);
            }
            if together.len() == batch {
                keep(together.drain(..));
            }
        }
        keep(together);
        for told in waiting.map(|thread| thread.join().expect("nobody is forgotten")) {
            assert_eq!(told, (144, 36), "kept and broken, in batches of {batch}");
        }
    }

    #[test]
    fn nobody_is_forgotten() {
        for batch in [1, 2, 64, 1_000] {
            check(batch);
        }
    }

    fn poll(kept: &mut Kept) -> Poll<bool> {
        Pin::new(kept).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_runtime_that_has_ended_meanwhile_is_let_be() {
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        let (pledge, mut kept) = pledge();
        assert_eq!(runtime.block_on(async { poll(&mut kept) }), Poll::Pending);
        drop(runtime);
        keep([pledge]);
        assert_eq!(poll(&mut kept), Poll::Ready(true));
    }

    #[test]
    fn a_runtime_that_has_ended_takes_nobody_of_another_with_it() {
        let [ended, running] = [(); 2].map(|()| Builder::new_current_thread().enable_all().build().expect("a runtime"));
        let ((pledge_ended, mut kept_ended), (pledge, kept)) = (pledge(), pledge());
        assert_eq!(ended.block_on(async { poll(&mut kept_ended) }), Poll::Pending);
        drop(ended);
        let told = running.block_on(async {
            let waiting = tokio::spawn(kept);
            yield_now().await;
            keep([pledge_ended, pledge]);
            timeout(TOO_LONG, waiting).await
        });
        assert!(matches!(told, Ok(Ok(true))), "{told:?}");
    }

    #[test]
    fn whoever_has_left_is_not_kept_in_memory() {
        struct Task;
        impl Wake for Task {
            fn wake(self: Arc<Self>) {}
        }
        let (_pledge, mut kept) = pledge();
        let task = Arc::new(Task);
        let waker = Waker::from(task.clone());
        assert!(Pin::new(&mut kept).poll(&mut Context::from_waker(&waker)).is_pending());
        assert_eq!(Arc::strong_count(&task), 3);
        drop(kept);
        assert_eq!(Arc::strong_count(&task), 2, "ours, and the waker that it was polled with");
    }

    #[test]
    fn what_is_settled_stays_so_and_is_known_at_once() {
        let (pledge_kept, mut kept) = pledge();
        assert_eq!(poll(&mut kept), Poll::Pending);
        keep([pledge_kept]);
        assert_eq!(poll(&mut kept), Poll::Ready(true));
        let (pledge_broken, mut broken) = pledge();
        drop(pledge_broken);
        assert_eq!(poll(&mut broken), Poll::Ready(false));
    }
}
