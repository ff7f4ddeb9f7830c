//! The pipes of an attempt: our ends, which never block, and what was read and could not be kept yet.
//!
//! A job whose output can be kept nowhere stalls on its pipe: nothing more is read until something is acknowledged.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::core::id::Fence;
use crate::core::limits;
use crate::core::output::Stream;

use super::attempt::Attempt;
use super::watched::{Source, Watch, Watched};
use super::{Deadline, Executor, FLUSH_AFTER};
use crate::process::packet::OwnedFdEq;
use crate::process::run_as::Credentials;

const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];
/// What a pipe can hold when all of its writers are gone: the largest that an unprivileged process may make it.
const PIPE_BYTES_MAX: usize = 1 << 20;

/// Both streams of an attempt, as long as somebody may write to them.
pub(super) struct Pipes([Option<Pipe>; 2]);

struct Pipe {
    end: OwnedFd,
    watch: Option<Watch>,
    /// Read, and not kept yet.
    held: Vec<u8>,
}

impl Pipes {
    /// New pipes, with the job's ends, which do block; a job of another user can open its own again, as /dev/stderr.
    pub(super) fn new(run_as: Option<&Credentials>) -> nix::Result<(Self, Vec<OwnedFdEq>)> {
        let mut ours = [None, None];
        let mut theirs = Vec::with_capacity(2);
        for pipe in &mut ours {
            let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
            // Set on our end alone: by pipe2 it would hit the job's as well.
            fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            if let Some(user) = run_as {
                nix::unistd::fchown(&write, Some(user.uid.into()), Some(user.gid.into()))?;
            }
            *pipe = Some(Pipe { end: read, watch: None, held: Vec::new() });
            theirs.push(OwnedFdEq(write));
        }
        Ok((Self(ours), theirs))
    }

    /// Closes both.
    pub(super) fn close(&mut self, watched: &mut Watched) {
        for stream in STREAMS {
            self.close_one(stream, watched);
        }
    }

    fn close_one(&mut self, stream: Stream, watched: &mut Watched) {
        if let Some(mut pipe) = self.0[stream as usize].take() {
            pipe.unwatch(watched);
        }
    }

    fn of(&mut self, stream: Stream) -> Option<&mut Pipe> {
        self.0[stream as usize].as_mut()
    }
}

impl Pipe {
    fn unwatch(&mut self, watched: &mut Watched) {
        if let Some(watch) = self.watch.take() {
            watched.remove(&self.end, watch);
        }
    }
}

impl Executor {
    /// From now on epoll tells when a pipe has something, unless what it gave before is still held.
    pub(super) fn watch_pipes(&mut self, fence: Fence) {
        for stream in STREAMS {
            self.keep_held(fence, stream);
            let Some(running) = self.attempts.get_mut(&fence).and_then(Attempt::running) else { return };
            let Some(pipe) = running.pipes.of(stream) else { continue };
            if pipe.watch.is_some() || !pipe.held.is_empty() {
                continue;
            }
            match self.watched.add(&pipe.end, Source::Pipe(fence, stream)) {
                Ok(watch) => pipe.watch = Some(watch),
                Err(error) => tracing::warn!(%fence, %error, "cannot watch a pipe: its output waits"),
            }
        }
    }

    pub(super) fn read_pipe(&mut self, fence: Fence, stream: Stream) {
        let Some(attempt) = self.attempts.get_mut(&fence) else { return };
        let Some(running) = attempt.running() else { return };
        let Some(pipe) = running.pipes.of(stream) else { return };
        match nix::unistd::read(&pipe.end, &mut self.buffer[..limits::OUTPUT_CHUNK_BYTES_MAX]) {
            Ok(count) if count > 0 => {
                pipe.held.extend_from_slice(&self.buffer[..count]);
                self.keep_held(fence, stream);
                self.look_at(FLUSH_AFTER, Deadline::Flush(fence));
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // Nobody writes to it any longer.
            Ok(_) | Err(_) => running.pipes.close_one(stream, &mut self.watched),
        }
    }

    /// Gives what is held to the spool; where that can keep no more, the job stalls.
    fn keep_held(&mut self, fence: Fence, stream: Stream) {
        let Some(Attempt { phase: super::Phase::Running(running), spool, .. }) =
            self.attempts.get_mut(&fence)
        else {
            return;
        };
        let Some(pipe) = running.pipes.of(stream).filter(|pipe| !pipe.held.is_empty()) else { return };
        let kept = spool.push(stream, &pipe.held, &self.options.directory);
        pipe.held.drain(..kept);
        if pipe.held.is_empty() {
            pipe.held = Vec::new();
        } else {
            tracing::warn!(%fence, "no space for output: the job waits");
            pipe.unwatch(&mut self.watched);
        }
    }

    /// Reads what is left in the pipes of an attempt whose processes are gone. What can be kept nowhere now never can
    /// be: it is counted.
    pub(super) fn drain_pipes(&mut self, fence: Fence) {
        let Some(Attempt { phase: super::Phase::Running(running), spool, .. }) =
            self.attempts.get_mut(&fence)
        else {
            return;
        };
        for stream in STREAMS {
            let Some(pipe) = running.pipes.of(stream) else { continue };
            let mut left = PIPE_BYTES_MAX;
            while left > 0 {
                match nix::unistd::read(&pipe.end, &mut self.buffer) {
                    Ok(count) if count > 0 => {
                        pipe.held.extend_from_slice(&self.buffer[..count]);
                        left = left.saturating_sub(count);
                    }
                    Err(Errno::EINTR) => {}
                    Ok(_) | Err(_) => break,
                }
            }
            let kept = spool.push(stream, &pipe.held, &self.options.directory);
            spool.drop_bytes(pipe.held.len() - kept);
        }
    }
}
