@0xc47d19e2b6f0a835;
# Between an agent and its executors, over a 0600 unix socket on one machine: single messages, each with its length in
# front (four bytes, little end first), no calls. A new agent meets an executor that is days old, so a member of a union
# is never taken away, and golden bytes guard what there is.

using Types = import "types.capnp";
using Worker = import "worker.capnp";

struct ToExecutor {
  union {
    hello @0 :UInt16;
    # The first message of a connection: the version of this file that the agent speaks.
    start @1 :Launch;
    end @2 :End;
    leaseMs @3 :UInt64;
    # Every attempt that has a lease may run so much longer from now.
    acknowledged @4 :Worker.Position;
    sendFrom @5 :Worker.Position;
    pause @6 :Void;
    unpause @7 :Void;
    forget @8 :Types.Fence;
    dial @9 :UInt64;
    exitWhenEmpty @10 :Void;
    stopAll @11 :Void;
  }
}

struct Launch {
  fence @0 :Types.Fence;
  dial @1 :UInt64;
  script @2 :Data;
  args @3 :List(Data);
  env @4 :List(Types.Variable);
  cwd @5 :Data;
  timeoutMs @6 :UInt64;
  leaseMs @7 :UInt64;
  worker @8 :Text;
}

struct End {
  fence @0 :Types.Fence;
  how @1 :Types.Cancel;
}

struct FromExecutor {
  union {
    welcome @0 :Welcome;
    started @1 :Types.Fence;
    output @2 :Output;
    ended @3 :Worker.Ended;
    refused @4 :Types.Fence;
    diskFull @5 :UInt64;
    # Free bytes.
  }
}

struct Welcome {
  version @0 :UInt16;
  incarnation @1 :UInt64;
  held @2 :List(Held);
  dial @3 :UInt64;
}

struct Held {
  union {
    waiting @0 :Types.Fence;
    running @1 :Types.Fence;
    ended @2 :Worker.Ended;
  }
}

struct Output {
  fence @0 :Types.Fence;
  chunk @1 :Types.Chunk;
}
