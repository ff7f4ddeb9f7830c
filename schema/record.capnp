@0xb83e5a7fd60c1492;
# What a pool remembers. Each entry of its log is one `Record`; each row of its history holds a `TaskEnded` or a
# `JobEnded`. Nothing of this travels: it is read by later versions of the same program, for ever.

using Types = import "types.capnp";
using Worker = import "worker.capnp";
using Pool = import "pool.capnp";

struct Record {
  union {
    poolStarted @0 :UInt64;
    # The epoch.
    counters @1 :Counters;
    submitted @2 :Submission;
    assigned @3 :Assignment;
    ended @4 :TaskEnded;
    putBack @5 :PutBack;
    cancelWanted @6 :CancelWanted;
    job @7 :JobState;
    worker @8 :WorkerState;
    client @9 :ClientState;
    token @10 :TokenState;
    tokenForgotten @11 :UInt64;
  }
}

struct Counters {
  job @0 :UInt64;
  worker @1 :UInt64;
  token @2 :UInt64;
}

struct Submission {
  job @0 :UInt64;
  nonce @1 :UInt64;
  owner @2 :Text;
  request @3 :Data;
  # 16 bytes.
  spec @4 :Types.JobSpec;
  atMs @5 :Int64;
}

struct Assignment {
  job @0 :UInt64;
  worker @1 :UInt64;
  incarnation @2 :UInt64;
  tasks @3 :List(Given);
  atMs @4 :Int64;
}

struct Given {
  index @0 :UInt32;
  attempt @1 :UInt32;
}

struct TaskEnded {
  end @0 :Worker.Ended;
  worker @1 :Text;
  startedMs @2 :Int64;
  endedMs @3 :Int64;
}

struct PutBack {
  fence @0 :Types.Fence;
  union {
    retry @1 :Text;
    neverStarted @2 :Void;
  }
}

struct CancelWanted {
  job @0 :UInt64;
  ranges @1 :List(Types.Range);
  how @2 :Types.Cancel;
  atMs @3 :Int64;
}

struct JobState {
  submission @0 :Submission;
  waiting @1 :List(Types.Range);
  active @2 :List(Active);
  tried @3 :List(Tried);
  over @4 :Pool.Counts;
  failed @5 :List(Types.Range);
  startedMs @6 :Int64;
}

struct Active {
  index @0 :UInt32;
  attempt @1 :UInt32;
  used @2 :UInt32;
  worker @3 :UInt64;
  incarnation @4 :UInt64;
  atMs @5 :Int64;
  unknownMs @6 :UInt64;
  union {
    wanted @7 :Void;
    cancelled @8 :Types.Cancel;
  }
}

struct Tried {
  index @0 :UInt32;
  last @1 :UInt32;
  used @2 :UInt32;
}

struct WorkerState {
  id @0 :UInt64;
  name @1 :Text;
  key @2 :Data;
  # 32 bytes, or none for a worker of the pool's own machine.
  bound @3 :List(Types.Label);
  joinedMs @4 :Int64;
  revoked @5 :Bool;
  facts @6 :Worker.Facts;
  # Null until it has registered.
}

struct ClientState {
  key @0 :Data;
  name @1 :Text;
  owner @2 :Text;
  joinedMs @3 :Int64;
  revoked @4 :Bool;
}

struct TokenState {
  id @0 :UInt64;
  role @1 :Pool.Role;
  secretHash @2 :Data;
  name @3 :Text;
  owner @4 :Text;
  labels @5 :List(Types.Label);
  bounded @6 :Bool;
  # Whether `usesLeft` counts.
  usesLeft @7 :UInt32;
  expiresMs @8 :Int64;
  revoked @9 :Bool;
  admitted @10 :List(Data);
}

struct JobEnded {
  submission @0 :Submission;
  counts @1 :Pool.Counts;
  failed @2 :List(Types.Range);
  startedMs @3 :Int64;
  endedMs @4 :Int64;
}
