@0xc47d19e2b6f0a835;
# Between an agent and its executors, over a 0600 unix socket on one machine: single messages, each with its length in
# front (four bytes, little end first), no calls and no answers. An executor has one agent at a time: a new connection
# takes the place of the one before. When the connection ends, the executor goes on with what it has, as after `pause`.
#
# A new agent meets an executor that is days old, and the other way round, so a member of a union is never taken away
# and never changes its meaning; golden bytes guard what there is. A member that the other side does not know cuts the
# line.

using Types = import "types.capnp";
using Worker = import "worker.capnp";

struct ToExecutor {
  # What an agent says.
  union {
    hello @0 :UInt16;
    # The first message of a connection: the version of this file that the agent would like to speak. The executor
    # answers with `welcome`, whatever the version is.
    start @1 :Launch;
    # Run this. Answered by `started`, by `ended` if it cannot be started, or by `refused` if a later dial is known. A
    # fence that the executor has, or had, is ignored.
    end @2 :End;
    # End this attempt. A stronger way counts, a weaker one after it does not; an unknown fence is ignored.
    leaseUntil @3 :UInt64;
    # Every attempt that has a lease may run until then: nanoseconds of the machine's CLOCK_BOOTTIME, which both sides
    # read. The agent counts it from when it sent the heartbeat that was answered.
    acknowledged @4 :Worker.Position;
    # Output before this position is durable at the pool and may be forgotten.
    sendFrom @5 :Worker.Position;
    # Send this attempt's output from here, again if need be, and go on.
    pause @6 :Void;
    # Send no output until `sendFrom`, also of attempts that are started later: the link to the pool is down.
    unpause @7 :Void;
    # Output of attempts that are started from now on is sent at once.
    forget @8 :Types.Fence;
    # The ending of this attempt is durable at the pool: it need not be kept.
    dial @9 :UInt64;
    # A registration with this number was made: starts that come with a lower one are refused.
    exitWhenEmpty @10 :Void;
    # End when nothing is left that runs or is remembered.
    stopAll @11 :Void;
    # End every attempt as by `terminate`, with the outcome `lost`; then as `exitWhenEmpty`.
    starts @12 :Starts;
    # How what waits is to be begun from now on. Before the first of these an executor begins whatever it gets.
    takeBack @13 :Types.Fence;
    # Give this attempt back, unless it was begun: answered by `refused`, or not at all.
  }
}

struct Starts {
  # How waiting attempts are begun.
  slots @0 :UInt32;
  # So many run at a time; the others wait, in the order in which they came.
  until @1 :UInt64;
  # None begins after this, on the same clock as `ToExecutor.leaseUntil`: the pool may have given it to another by then.
}

struct Launch {
  # All that is needed to run one attempt.
  fence @0 :Types.Fence;
  dial @1 :UInt64;
  # The number of the dial whose registration the start came by.
  script @2 :Data;
  args @3 :List(Data);
  env @4 :List(Types.Variable);
  # These, and the directory, as in `JobSpec`, with its bounds.
  cwd @5 :Data;
  timeoutMs @6 :UInt64;
  # 0: none.
  leaseUntil @7 :UInt64;
  # When it ends without `ToExecutor.leaseUntil`, on the same clock; 0: it may run as long as the executor lives.
  worker @8 :Text;
  # The worker's name, for the job's environment.
}

struct End {
  # An attempt that is to be ended.
  fence @0 :Types.Fence;
  how @1 :Types.Cancel;
}

struct FromExecutor {
  # What an executor says.
  union {
    welcome @0 :Welcome;
    # The answer to `hello`, and the first message of the executor.
    started @1 :Types.Fence;
    # Bash runs.
    output @2 :Output;
    # Bytes that a job wrote. At most 1 MiB of all attempts together is sent and not acknowledged.
    ended @3 :Worker.Ended;
    # It has ended, all its processes are gone, and all its output was read; some of that may follow. The executor keeps
    # the ending until `forget`.
    refused @4 :Types.Fence;
    # It was not begun and will not be: its start came with a lower dial than one that is known, or it was taken back.
  }
}

struct Welcome {
  # What an executor says of itself to an agent that has just connected.
  version @0 :UInt16;
  # Of this file, that the executor speaks. An agent that knows it speaks that; otherwise it lets the executor be.
  incarnation @1 :UInt64;
  # Random, made when the executor started: attempts live exactly as long as it.
  held @2 :List(Held);
  # Every attempt that it has.
  dial @3 :UInt64;
  # The highest that it was told; 0: none yet.
}

struct Held {
  # An attempt that an executor has.
  union {
    waiting @0 :Types.Fence;
    # Received, not yet started.
    running @1 :Types.Fence;
    # Bash was started.
    ended @2 :Worker.Ended;
    # Ended, and nobody has said `forget`.
  }
}

struct Output {
  # Consecutive bytes of one attempt.
  fence @0 :Types.Fence;
  chunk @1 :Types.Chunk;
}
