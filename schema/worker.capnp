@0x8f2d61c3a97be450;
# What a worker may hold, and what it offers. A worker dials the pool and passes a `Worker` capability, over which the
# pool calls back; so nothing ever dials a worker.

using Types = import "types.capnp";

interface WorkerDoor @0xd5a0f3917c2e6b48 {
  # The bootstrap object of a worker's connection.

  hello @0 (hello :Types.Hello) -> (welcome :Types.Welcome, registrar :Registrar, refused :Types.Refusal);
}

interface Registrar @0x93c7e1b05d8a2f64 {
  register @0 (worker :Worker, facts :Facts, carried :List(Carried)) -> (registered :Registered, refused :Types.Refusal);
  # Joins the pool, or comes back to it. The pool decides about everything that it believes to be at this worker by
  # `carried`: what lives goes on, what ended is taken over, what is not listed was never started if this incarnation
  # got it.
}

struct Facts {
  bootId @0 :Text;
  incarnation @1 :UInt64;
  # Of the executor that takes starts.
  dial @2 :UInt64;
  # Grows with each dial of this worker: the newest registration counts.
  slots @3 :UInt32;
  labels @4 :List(Types.Label);
  # Found by itself or given with --label; what the worker's token bound to it goes over these.
  memoryBytes @5 :UInt64;
  uid @6 :UInt32;
  # That jobs run as.
  trustSubmitters @7 :Bool;
  # Started with --trust-submitters: takes everybody's jobs although it could read the pool's state.
  user @8 :Text;
  pid @9 :UInt32;
}

struct Carried {
  # What one executor has.
  incarnation @0 :UInt64;
  living @1 :List(Types.Fence);
  # Given to it and not ended, started or not.
  ended @2 :List(Types.Fence);
  # Ended, and not yet forgotten. How is reported, as always, once all output is with the pool.
  neverStarted @3 :List(Types.Fence);
  # Journalled by an executor that is gone as received and not as starting.
}

struct Registered {
  registration @0 :Registration;
  reports @1 :Reports;
  output @2 :Output;
  heartbeat @3 :Heartbeat;
  # Objects of their own, so that none waits for another.
  name @4 :Text;
  pool @5 :Text;
  leaseMs @6 :UInt64;
  heartbeatMs @7 :UInt64;
  forget @8 :List(Types.Fence);
  # Of `carried`: what need not be kept any longer.
  kill @9 :List(Types.Fence);
  # Of `carried`: attempts that the pool does not want (cancelled, superseded, unknown to it).
  positions @10 :List(Position);
  # How much output of what lives or ended the pool has already.
  onlyOwner @11 :Text;
  # Takes only this owner's jobs, since it could read the pool's state; empty: everybody's.
}

struct Position {
  fence @0 :Types.Fence;
  position @1 :UInt64;
}

interface Registration @0xb6f8d20e4a71c935 {
  # The membership itself: dropping it ends it.

  drain @0 () -> ();
  # The worker wants nothing new.

  leave @1 () -> ();
  # The worker goes on purpose; what is still there is lost.
}

interface Heartbeat @0xa4e9c6027b3d5f18 {
  beat @0 (held :UInt32) -> (leaseMs :UInt64);
  # Renews the lease of every attempt at this worker. The worker counts it from when it sent the call.
}

interface Reports @0xc0b7d4f2961e8a35 {
  report @0 (reports :List(Report)) -> (forget :List(Types.Fence));
  # What happened, in order. Returns when it is durable; `forget` names attempts whose record the worker need not keep.
}

struct Report {
  union {
    started @0 :Types.Fence;
    ended @1 :Ended;
    takenBack @2 :Types.Fence;
  }
}

struct Ended {
  fence @0 :Types.Fence;
  outcome @1 :Types.Outcome;
  usage @2 :Types.Usage;
  totals @3 :Types.OutputTotals;
  tail @4 :List(Types.Chunk);
  # Output that was not sent by `Output.write`; only if all of it is at most 4 KiB.
}

interface Output @0xd9f1a3b7c5e20648 {
  write @0 (parts :List(Part)) -> ();
  # Output of several attempts. Returns when all of it is durable; bytes that the pool has already are ignored, and a
  # part of an attempt that it does not know is dropped. At most 1 MiB may be unanswered.
}

struct Part {
  fence @0 :Types.Fence;
  chunks @1 :List(Types.Chunk);
}

interface Worker @0xe8c2b5d1f7a09346 {
  # What a worker offers to its pool.

  start @0 (jobs :List(Start)) -> ();
  # Takes placements. They were recorded by the pool before this call; they are the worker's when it returns.

  cancel @1 (cancels :List(CancelAttempt)) -> ();
  # Ends attempts. Timed by the worker from the receipt. An attempt that it does not have is ignored.

  forget @2 (fences :List(Types.Fence)) -> ();

  leaving @3 (reason :LeaveReason, leaseMs :UInt64) -> ();
  # The pool goes; the lease of all attempts is extended once.
}

enum LeaveReason {
  restart @0;
  # Dial again.
  idle @1;
  # The private pool ends: go too, once nothing is left.
  removed @2;
  # This worker was removed: stop everything and leave.
}

struct Start {
  # Placements that share a spec.
  job @0 :UInt64;
  script @1 :Data;
  args @2 :List(Data);
  env @3 :List(Types.Variable);
  cwd @4 :Data;
  timeoutMs @5 :UInt64;
  fences @6 :List(Types.Fence);
  leaseMs @7 :UInt64;
  # How long each may run from now on without a heartbeat answered; 0: as long as its executor lives (no --retries).
}

struct CancelAttempt {
  fence @0 :Types.Fence;
  how @1 :Types.Cancel;
}
