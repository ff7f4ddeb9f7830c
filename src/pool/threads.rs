//! The threads of a pool. When one ends, for whatever reason, the pool ends: none of them can be missed.

use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::watch;

use super::shared::Stop;

/// Threads that run until the pool is to end.
pub(super) struct Threads {
    stop: Arc<watch::Sender<Stop>>,
    running: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Threads {
    pub(super) fn new(stop: Arc<watch::Sender<Stop>>) -> Self {
        Self { stop, running: Vec::new() }
    }

    /// Starts one.
    pub(super) fn start(
        &mut self,
        name: &str,
        body: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
    ) -> std::io::Result<()> {
        let end = EndOfThread(Arc::clone(&self.stop));
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _end = end;
            body()
        })?;
        self.running.push(thread);
        Ok(())
    }

    /// Waits until all have ended; with the first thing that went wrong.
    pub(super) fn join(self) -> anyhow::Result<()> {
        drop(self.stop);
        let mut failed = None;
        for thread in self.running {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            let ended =
                thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the thread \"{name}\" panicked")));
            failed = failed.or(ended.err());
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Whatever ends a thread, a panic included, ends the pool.
struct EndOfThread(Arc<watch::Sender<Stop>>);

impl Drop for EndOfThread {
    fn drop(&mut self) {
        Stop::Asked.order(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_panics_ends_the_pool_and_is_named() {
        let (stop, stopped) = watch::channel(Stop::No);
        let mut threads = Threads::new(Arc::new(stop));
        threads.start("idle", || Ok(())).unwrap();
        threads.start("core", || panic!("as the test wants it")).unwrap();

        let failed = threads.join().unwrap_err();

        assert_eq!(failed.to_string(), "the thread \"core\" panicked");
        assert_eq!(*stopped.borrow(), Stop::Asked);
    }
}
