//! What the executor's epoll watches, and what each of its events is about.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::core::id::Fence;
use crate::core::output::Stream;

/// Events taken from the kernel at a time.
const EVENTS_MAX: usize = 256;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Listener,
    Agent,
    Keeper(u64),
    Pipe(Fence, Stream),
}

/// Names a descriptor that is watched; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Watch(u64);

/// An epoll with its sources.
pub(super) struct Watched {
    epoll: Epoll,
    sources: BTreeMap<Watch, Source>,
    last: u64,
}

impl Watched {
    pub(super) fn new() -> nix::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self { epoll, sources: BTreeMap::new(), last: 0 })
    }

    /// Watches a descriptor for reading until `remove`.
    pub(super) fn add(&mut self, fd: impl AsFd, source: Source) -> nix::Result<Watch> {
        self.last += 1;
        self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, self.last))?;
        self.sources.insert(Watch(self.last), source);
        Ok(Watch(self.last))
    }

    /// Also tells when there is room to write, or no longer does.
    pub(super) fn want_room(&self, fd: impl AsFd, watch: Watch, wanted: bool) -> nix::Result<()> {
        let room = if wanted { EpollFlags::EPOLLOUT } else { EpollFlags::empty() };
        self.epoll.modify(fd, &mut EpollEvent::new(EpollFlags::EPOLLIN | room, watch.0))
    }

    /// Watches a descriptor no longer. It must not have been closed before.
    pub(super) fn remove(&mut self, fd: impl AsFd, watch: Watch) {
        self.sources.remove(&watch);
        // It was added, so it can be taken out.
        let _ = self.epoll.delete(fd);
    }

    /// Waits for events; those of what is no longer watched are left out.
    pub(super) fn wait(&self, timeout: EpollTimeout) -> nix::Result<Vec<(Source, EpollFlags)>> {
        let mut events = [EpollEvent::empty(); EVENTS_MAX];
        let count = match self.epoll.wait(&mut events, timeout) {
            Err(nix::errno::Errno::EINTR) => 0,
            count => count?,
        };
        let about = |event: &EpollEvent| Some((*self.sources.get(&Watch(event.data()))?, event.events()));
        Ok(events[..count].iter().filter_map(about).collect())
    }
}
