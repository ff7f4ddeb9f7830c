//! The executor's end of the line to its agent: one connection at a time, frames in both directions, never waiting.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use crate::core::attempt::FromExecutor;
use crate::core::limits;
use crate::wire::executor as wire;

use super::watched::{Source, Watch};
use super::{Executor, Flow, Stay};

/// Output is not added to what an agent has not read beyond this, in bytes.
const BACKLOG_BYTES_MAX: usize = 4 << 20;

/// An agent that is connected.
pub(super) struct Agent {
    stream: UnixStream,
    watch: Watch,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    /// Whether epoll tells when there is room to write.
    waits_for_room: bool,
    /// Whether it has said hello: before that it is told nothing, and afterwards everything from there on.
    greeted: bool,
}

impl Executor {
    /// A new agent takes the place of the one before: that one is gone, or will notice.
    pub(super) fn accept(&mut self) {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                if error.kind() != ErrorKind::WouldBlock {
                    tracing::warn!(%error, "cannot accept an agent");
                }
                return;
            }
        };
        let watch = stream.set_nonblocking(true).map_err(anyhow::Error::from);
        self.drop_agent();
        match watch.and_then(|()| Ok(self.watched.add(&stream, Source::Agent)?)) {
            Ok(watch) => {
                let (inbox, outbox) = (Vec::new(), Vec::new());
                self.agent =
                    Some(Agent { stream, watch, inbox, outbox, waits_for_room: false, greeted: false });
            }
            Err(error) => tracing::warn!(%error, "cannot watch an agent"),
        }
    }

    pub(super) fn read_agent(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        match agent.stream.read(&mut self.buffer) {
            Ok(0) => self.drop_agent(),
            Ok(count) => {
                agent.inbox.extend_from_slice(&self.buffer[..count]);
                self.take_frames();
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.drop_agent(),
        }
    }

    fn take_frames(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        let inbox = std::mem::take(&mut agent.inbox);
        let mut taken = 0;
        let mut words = Vec::new();
        let whole = loop {
            match wire::next_frame(&inbox[taken..]) {
                Ok(None) => break Ok(()),
                Ok(Some((body, length))) => match wire::decode_to(body) {
                    Ok(word) => {
                        words.push(word);
                        taken += length;
                    }
                    Err(error) => break Err(error),
                },
                Err(error) => break Err(error),
            }
        };
        agent.inbox = inbox[taken..].to_vec();
        for word in words {
            match word {
                None => self.welcome(),
                Some(word) => self.obey(word),
            }
        }
        if let Err(error) = whole {
            // It speaks another language: it is cut, and its jobs go on.
            tracing::warn!(%error, "an agent speaks nonsense");
            self.drop_agent();
        }
    }

    fn welcome(&mut self) {
        self.pause();
        // Whatever an agent before this one wanted.
        self.stay = Stay::ForEver;
        if let Some(agent) = &mut self.agent {
            agent.greeted = true;
        }
        let welcome =
            FromExecutor::Welcome { incarnation: self.incarnation, held: self.held(), dial: self.dial };
        self.say(&welcome);
    }

    /// Says something to the agent, if there is one: a later one is told what counts when it says hello.
    pub(super) fn say(&mut self, word: &FromExecutor) {
        if let Some(agent) = self.agent.as_mut().filter(|agent| agent.greeted) {
            agent.outbox.extend(wire::encode_from(word));
        }
    }

    /// Sends output as far as the window allows, in turns.
    pub(super) fn send_output(&mut self) {
        while self.agent.as_ref().is_some_and(|agent| agent.outbox.len() < BACKLOG_BYTES_MAX)
            && self.in_flight < limits::OUTPUT_IN_FLIGHT_BYTES_MAX as u64
            && let Some(fence) = self.unsent.pop_front()
        {
            let Some(attempt) = self.attempts.get_mut(&fence).filter(|attempt| attempt.flow == Flow::Open)
            else {
                continue;
            };
            attempt.queued = false;
            match attempt.spool.next() {
                Ok(None) => {}
                Ok(Some(chunk)) => {
                    self.in_flight += chunk.bytes.len() as u64;
                    self.say(&FromExecutor::Output { fence, chunk });
                    self.may_send(fence);
                }
                // It waits in its file; perhaps that can be read when something is acknowledged.
                Err(error) => tracing::error!(%fence, %error, "cannot read output back"),
            }
        }
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
            if self.watched.want_room(&agent.stream, agent.watch, wants_room).is_err() {
                self.drop_agent();
            }
        }
    }

    /// The agent is gone: everything stays as it is, and no output is sent until another asks for it.
    fn drop_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            self.watched.remove(&agent.stream, agent.watch);
        }
        self.pause();
        self.note_idle();
    }
}
