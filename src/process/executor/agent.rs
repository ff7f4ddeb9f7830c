//! The executor's end of the line to its agent: one connection at a time, frames in both directions, never waiting.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::sys::epoll::{EpollEvent, EpollFlags};

use crate::core::attempt::FromExecutor;
use crate::core::limits;
use crate::wire::executor as wire;

use super::{Executor, Flow, Source};

/// Bytes read from an agent at a time.
const READ_BYTES: usize = 256 << 10;
/// Output is not added to what an agent has not read beyond this, in bytes.
const BACKLOG_BYTES_MAX: usize = 4 << 20;

/// An agent that is connected.
pub(super) struct Agent {
    stream: UnixStream,
    source: u64,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    /// Whether epoll tells when there is room to write.
    waits_for_room: bool,
}

impl Executor {
    /// A new agent takes the place of the one before: that one is gone, or will notice.
    pub(super) fn accept(&mut self) -> anyhow::Result<()> {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionAborted) => {
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        stream.set_nonblocking(true)?;
        self.drop_agent();
        // Epoll knows it by this very descriptor.
        let source = self.watch(stream.as_fd(), Source::Agent, EpollFlags::EPOLLIN)?;
        self.agent =
            Some(Agent { stream, source, inbox: Vec::new(), outbox: Vec::new(), waits_for_room: false });
        Ok(())
    }

    pub(super) fn read_agent(&mut self) -> anyhow::Result<()> {
        let Some(agent) = &mut self.agent else { return Ok(()) };
        let mut buffer = vec![0; READ_BYTES];
        match agent.stream.read(&mut buffer) {
            Ok(0) => {
                self.drop_agent();
                return Ok(());
            }
            Ok(count) => agent.inbox.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(());
            }
            Err(_) => {
                self.drop_agent();
                return Ok(());
            }
        }
        self.take_frames()
    }

    fn take_frames(&mut self) -> anyhow::Result<()> {
        let Some(agent) = &mut self.agent else { return Ok(()) };
        let inbox = std::mem::take(&mut agent.inbox);
        let mut taken = 0;
        let mut words = Vec::new();
        let broken = loop {
            match wire::next_frame(&inbox[taken..]) {
                Ok(None) => break false,
                Ok(Some((body, length))) => match wire::decode_to(body) {
                    Ok(word) => {
                        words.push(word);
                        taken += length;
                    }
                    Err(_) => break true,
                },
                Err(_) => break true,
            }
        };
        agent.inbox = inbox[taken..].to_vec();
        for word in words {
            match word {
                None => self.welcome(),
                Some(word) => self.obey(word)?,
            }
        }
        if broken {
            // It speaks another language: it is cut, and its jobs go on.
            self.drop_agent();
        }
        Ok(())
    }

    fn welcome(&mut self) {
        self.pause();
        let welcome =
            FromExecutor::Welcome { incarnation: self.incarnation, held: self.held(), dial: self.dial };
        self.say(&welcome);
    }

    /// Says something to the agent, if there is one: a later one is told what counts when it says hello.
    pub(super) fn say(&mut self, word: &FromExecutor) {
        if let Some(agent) = &mut self.agent {
            agent.outbox.extend(wire::encode_from(word));
        }
    }

    /// Sends output as far as the window allows, in turns.
    pub(super) fn send_output(&mut self) -> anyhow::Result<()> {
        while self.agent.as_ref().is_some_and(|agent| agent.outbox.len() < BACKLOG_BYTES_MAX)
            && self.in_flight < limits::OUTPUT_IN_FLIGHT_BYTES_MAX as u64
            && let Some(fence) = self.unsent.pop_front()
        {
            let Some(attempt) = self.attempts.get_mut(&fence).filter(|attempt| attempt.flow == Flow::Open)
            else {
                continue;
            };
            attempt.queued = false;
            if let Some(chunk) = attempt.spool.next()? {
                self.in_flight += chunk.bytes.len() as u64;
                self.say(&FromExecutor::Output { fence, chunk });
                self.may_send(fence);
            }
        }
        Ok(())
    }

    /// Writes what the agent takes now.
    pub(super) fn flush_agent(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        let mut written = 0;
        let mut gone = false;
        while written < agent.outbox.len() {
            match agent.stream.write(&agent.outbox[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    gone = true;
                    break;
                }
            }
        }
        agent.outbox.drain(..written);
        if gone {
            self.drop_agent();
            return;
        }
        let wants_room = !agent.outbox.is_empty();
        if wants_room != agent.waits_for_room {
            agent.waits_for_room = wants_room;
            let events =
                if wants_room { EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
            let mut event = EpollEvent::new(events, agent.source);
            if self.epoll.modify(&agent.stream, &mut event).is_err() {
                self.drop_agent();
            }
        }
    }

    /// The agent is gone: everything stays as it is, and no output is sent until another asks for it.
    fn drop_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            self.sources.remove(&agent.source);
            // The stream may have been cloned into epoll's interest list: it goes with the last descriptor.
            let _ = self.epoll.delete(&agent.stream);
        }
        self.pause();
        if self.attempts.is_empty() {
            self.arm_idle();
        }
    }
}
