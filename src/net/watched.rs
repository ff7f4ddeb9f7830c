//! A network of Cap'n Proto whose messages are counted as they pass, before capnp-rpc sees what comes.

use std::rc::Rc;

use capnp::capability::Promise;
use capnp::message::{Builder, HeapAllocator};
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{Connection, FlowController, IncomingMessage, OutgoingMessage, VatNetwork};

use super::gate::GateState;

/// A network, and who counts.
pub(super) struct Watched<N> {
    network: N,
    state: GateState,
}

impl<N> Watched<N> {
    pub(super) fn new(network: N, state: GateState) -> Self {
        Self { network, state }
    }
}

impl<N: VatNetwork<Side>> VatNetwork<Side> for Watched<N> {
    fn connect(&mut self, host_id: Side) -> Option<Box<dyn Connection<Side>>> {
        let connection = self.network.connect(host_id)?;
        Some(Box::new(WatchedConnection { connection, state: self.state.clone() }))
    }

    fn accept(&mut self) -> Promise<Box<dyn Connection<Side>>, capnp::Error> {
        let (accepting, state) = (self.network.accept(), self.state.clone());
        Promise::from_future(async move {
            let connection = accepting.await?;
            Ok(Box::new(WatchedConnection { connection, state }) as Box<dyn Connection<Side>>)
        })
    }

    fn drive_until_shutdown(&mut self) -> Promise<(), capnp::Error> {
        self.network.drive_until_shutdown()
    }
}

struct WatchedConnection {
    connection: Box<dyn Connection<Side>>,
    state: GateState,
}

impl Connection<Side> for WatchedConnection {
    fn get_peer_vat_id(&self) -> Side {
        self.connection.get_peer_vat_id()
    }

    fn new_outgoing_message(&mut self, first_segment_word_size: u32) -> Box<dyn OutgoingMessage> {
        let message = self.connection.new_outgoing_message(first_segment_word_size);
        Box::new(WatchedMessage { message, state: self.state.clone() })
    }

    fn receive_incoming_message(&mut self) -> Promise<Option<Box<dyn IncomingMessage>>, capnp::Error> {
        let (receiving, state) = (self.connection.receive_incoming_message(), self.state.clone());
        Promise::from_future(async move {
            let received = receiving.await?;
            if let Some(message) = &received {
                // The peer reads why, as the reason of its connection's end.
                state.incoming(&**message)?;
            }
            Ok(received)
        })
    }

    fn new_stream(&mut self) -> (Box<dyn FlowController>, Promise<(), capnp::Error>) {
        self.connection.new_stream()
    }

    fn shutdown(&mut self, result: capnp::Result<()>) -> Promise<(), capnp::Error> {
        self.connection.shutdown(result)
    }
}

struct WatchedMessage {
    message: Box<dyn OutgoingMessage>,
    state: GateState,
}

impl OutgoingMessage for WatchedMessage {
    fn get_body(&mut self) -> capnp::Result<capnp::any_pointer::Builder<'_>> {
        self.message.get_body()
    }

    fn get_body_as_reader(&self) -> capnp::Result<capnp::any_pointer::Reader<'_>> {
        self.message.get_body_as_reader()
    }

    fn send(self: Box<Self>) -> (Promise<(), capnp::Error>, Rc<Builder<HeapAllocator>>) {
        self.state.outgoing(&*self.message);
        self.message.send()
    }

    fn take(self: Box<Self>) -> Builder<HeapAllocator> {
        self.message.take()
    }

    fn size_in_words(&self) -> usize {
        self.message.size_in_words()
    }
}
