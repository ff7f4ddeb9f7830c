@0x8f2d61c3a97be450;
# What a worker may hold, and what it offers. A worker dials the pool and passes a `Worker` capability, over which the
# pool calls back; so nothing ever dials a worker. The worker that a connection stands for is the one whose key was
# proved (or, over the local socket, the one that `Admin.localWorker` was asked for); no field of a message says who it
# is.

using Types = import "types.capnp";

interface WorkerDoor @0xd5a0f3917c2e6b48 {
  # The bootstrap object of a worker's connection. It gives nothing but what `hello` returns.

  hello @0 (hello :Types.Hello) -> (welcome :Types.Welcome, registrar :Registrar, refused :Types.Refusal);
  # The first call of a connection. `refused` is null unless the versions do not fit together; then the others are null.
}

interface Registrar @0x93c7e1b05d8a2f64 {
  # Where a worker joins. Dropping it changes nothing.

  register @0 (worker :Worker, facts :Facts, carried :List(Carried)) -> (registered :Registered, refused :Types.Refusal);
  # Joins the pool, or comes back to it; called once on each connection, after `hello`. The pool decides about
  # everything that it believes to be at this worker by `carried`: what lives goes on, what ended is taken over when it
  # is reported, what is not listed was never started if this incarnation got it. It calls `worker` until the connection
  # ends. An older connection of the same worker is cut; a second machine with the same key is refused while the first
  # is heard.

  renewKey @1 (key :Data, signature :Data) -> (refused :Types.Refusal);
  # As `Pool.renewKey`, for the key of this worker. It need not have registered on this connection.
}

struct Facts {
  # What a worker says of itself.
  bootId @0 :Text;
  # Of its machine, as in /proc/sys/kernel/random/boot_id.
  incarnation @1 :UInt64;
  # Of the executor that takes starts.
  dial @2 :UInt64;
  # Grows with each dial of this worker: the newest registration counts.
  slots @3 :UInt32;
  # What it can run at a time, at most 4096.
  labels @4 :List(Types.Label);
  # Found by itself or given with --label, at most 256; what the worker's token bound to it goes over these.
  memoryBytes @5 :UInt64;
  # Of its machine.
  uid @6 :UInt32;
  # That jobs run as.
  trustSubmitters @7 :Bool;
  # Started with --trust-submitters: takes everybody's jobs although it could read the pool's state.
  user @8 :Text;
  # The name of that user.
  pid @9 :UInt32;
  # Of its agent.
  ephemeral @10 :Bool;
  # It is to be forgotten ten minutes after it left, when it holds nothing.
}

struct Carried {
  # What one executor has; at most 64 of them, the present one and those before it.
  incarnation @0 :UInt64;
  living @1 :List(Types.Fence);
  # Given to it and not ended, started or not.
  ended @2 :List(Types.Fence);
  # Ended, and not yet forgotten. How is reported, as always, once all output is with the pool.
  neverStarted @3 :List(Types.Fence);
  # Journalled by an executor that is gone as received and not as starting.
}

struct Registered {
  # What a worker is given when it has registered. The objects are four, so that none waits for another.
  registration @0 :Registration;
  reports @1 :Reports;
  output @2 :Output;
  heartbeat @3 :Heartbeat;
  name @4 :Text;
  # By which the pool knows the worker.
  pool @5 :Text;
  # The pool's name.
  leaseMs @6 :UInt64;
  # How long an attempt with a lease may run after a heartbeat was sent that was answered.
  heartbeatMs @7 :UInt64;
  # How often to send one.
  forget @8 :List(Types.Fence);
  # Of `carried`: what need not be kept any longer.
  kill @9 :List(Types.Fence);
  # Of `carried`: attempts that the pool does not want (cancelled, superseded, unknown to it).
  positions @10 :List(Position);
  # How much output of what lives or ended the pool has already.
  onlyOwner @11 :Text;
  # Takes only this owner's jobs, since it could read the pool's state; empty: everybody's.
  silentMs @12 :UInt64;
  # What waits for a slot may start for so long after a call was sent that the pool has answered.
}

struct Position {
  # A place in an attempt's output: so many bytes of both streams are before it.
  fence @0 :Types.Fence;
  position @1 :UInt64;
}

interface Registration @0xb6f8d20e4a71c935 {
  # The membership itself: dropping it ends it, and the pool closes the connection. That takes nothing from the worker:
  # its attempts go on, and it may dial again.

  drain @0 () -> ();
  # The worker wants nothing new. What it has goes on and is reported.

  leave @1 () -> ();
  # The worker goes on purpose; what is still there is lost.
}

interface Heartbeat @0xa4e9c6027b3d5f18 {
  # Tells that the worker lives. Dropping it changes nothing by itself: a worker that is not heard becomes silent.

  beat @0 (held :UInt32, full :Text) -> (leaseMs :UInt64);
  # Called every `Registered.heartbeatMs`, with the number of attempts that have not ended. Renews the lease of every
  # attempt at this worker; the worker counts it from when it sent the call. `full` names the place where it has no
  # room for more, with what is left there: it gets nothing until a beat comes without.
}

interface Reports @0xc0b7d4f2961e8a35 {
  # Takes what happens to attempts. Dropping it changes nothing.

  report @0 (reports :List(Report)) -> (forget :List(Types.Fence));
  # What happened, in order; an ending only when all output of the attempt is durable at the pool, or rides along.
  # Returns when it is durable; `forget` names attempts whose ending the worker need not keep. Reports again what was
  # not answered on an earlier connection. Less than a frame; what is of another attempt than the pool's present one
  # changes nothing.
}

struct Report {
  # Something that happened at a worker.
  union {
    started @0 :Types.Fence;
    # Bash runs.
    ended @1 :Ended;
    takenBack @2 :Types.Fence;
    # It was taken back before it started, and never will.
  }
}

struct Ended {
  # How an attempt ended.
  fence @0 :Types.Fence;
  outcome @1 :Types.Outcome;
  usage @2 :Types.Usage;
  totals @3 :Types.OutputTotals;
  tail @4 :List(Types.Chunk);
  # All its output, if that is at most 4 KiB in at most 64 chunks and was not sent by `Output.write`; else empty.
}

interface Output @0xd9f1a3b7c5e20648 {
  # Takes output of attempts. Dropping it changes nothing: what was not answered is sent again by the next registration.

  write @0 (parts :List(Part)) -> ();
  # Output of several attempts. Returns when all of it is durable; bytes that the pool has already are ignored, and a
  # part of an attempt that it does not know is dropped. At most 1 MiB may be unanswered.
}

struct Part {
  # Output of one attempt, in the order of its positions and without a gap.
  fence @0 :Types.Fence;
  chunks @1 :List(Types.Chunk);
}

interface Worker @0xe8c2b5d1f7a09346 {
  # What a worker offers to its pool, when it registers. The pool calls it in the order in which it decided, and drops
  # it with the connection.

  start @0 (jobs :List(Start)) -> ();
  # Takes placements. They were recorded by the pool before this call; they are the worker's when it returns. An attempt
  # that the worker has already is ignored.

  cancel @1 (cancels :List(CancelAttempt)) -> ();
  # Ends attempts. Timed by the worker from the receipt. An attempt that it does not have is ignored.

  leaving @2 (reason :LeaveReason, leaseMs :UInt64) -> ();
  # The pool's last call: it goes. The lease of all attempts is extended once, to `leaseMs` from now.

  renewed @3 (successions :List(Types.Succession)) -> ();
  # The pool has another key, as its former ones say: `Welcome.successions` while the worker is connected.

  takeBack @4 (attempts :List(Types.Fence)) -> ();
  # Would like to have attempts back that were not started: handed ahead of a free slot, they wait for too long. Each
  # that was not is reported as `takenBack` and never starts; of the others this changes nothing.
}

enum LeaveReason {
  # Why a pool goes.
  restart @0;
  # Dial again.
  idle @1;
  # The private pool ends: go too, once nothing is left.
  removed @2;
  # This worker was removed: stop everything and leave.
}

struct Start {
  # Attempts of one job: of its `JobSpec` what running needs, with the bounds of that.
  job @0 :UInt64;
  script @1 :Data;
  args @2 :List(Data);
  env @3 :List(Types.Variable);
  cwd @4 :Data;
  timeoutMs @5 :UInt64;
  fences @6 :List(Types.Fence);
  leaseMs @7 :UInt64;
  # How long each may run after the heartbeat was sent that was answered last; 0: as long as its executor lives (no
  # --retries).
}

struct CancelAttempt {
  # An attempt that is to be ended.
  fence @0 :Types.Fence;
  how @1 :Types.Cancel;
  # A stronger way than before counts, a weaker one does not.
}
