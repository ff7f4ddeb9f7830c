@0xf3a1c2b47d5e6091;
# Values that several of the other files speak of. A value is compared, copied and sent; nothing happens when it is
# dropped. Durations are in the unit that their name ends with; a duration of 0 means "none" where the text says so.
# Texts are UTF-8; what a person's shell may contain in any encoding (scripts, arguments, variables, paths) is Data.

struct Range {
  # An inclusive range of task indices.
  first @0 :UInt32;
  last @1 :UInt32;
}

struct TaskId {
  # One schedulable unit of a job. A plain job has one task, number 0.
  job @0 :UInt64;
  index @1 :UInt32;
}

struct Fence {
  # Names one attempt for ever. What carries a fence counts only if it equals the one recorded by the pool.
  nonce @0 :UInt64;
  task @1 :TaskId;
  attempt @2 :UInt32;
}

struct Variable {
  # An environment variable.
  name @0 :Data;
  value @1 :Data;
}

struct Label {
  key @0 :Text;
  value @1 :Text;
}

struct JobSpec {
  # The immutable request in a job.
  script @0 :Data;
  # Bash source, byte for byte: `bash -c SCRIPT bash ARGS…`.
  args @1 :List(Data);
  name @2 :Text;
  # Empty: none.
  where @3 :Text;
  # A constraint over the workers' labels; empty: any worker.
  env @4 :List(Variable);
  cwd @5 :Data;
  # Absolute; empty: the workspace.
  timeoutMs @6 :UInt64;
  # 0: none.
  retries @7 :UInt32;
  priority @8 :Int8;
  # -100 to 100, higher first.
  lostAfterMs @9 :UInt64;
  # 0: the pool's default.
  array @10 :List(Range);
  # Sorted, without overlap; empty: a plain job.
  atOnce @11 :UInt32;
  # At most so many of the array's tasks at a time; 0: no such bound.
}

enum Cancel {
  # How a task is to be ended, or was.
  interrupt @0;
  # INT, after 5 s TERM, after 5 s KILL.
  terminate @1;
  # TERM, after 10 s KILL.
  kill @2;
}

struct Outcome {
  # How a task ended. One per task, and it never changes once it was seen.
  union {
    exited @0 :UInt8;
    signaled @1 :UInt8;
    timedOut @2 :Void;
    cancelled @3 :Cancel;
    lost @4 :Text;
    spawnFailed @5 :Text;
    quarantined @6 :Void;
  }
}

struct Usage {
  runUs @0 :UInt64;
  # From the start of bash to its end, on the worker's clock, in microseconds.
  cpuUserUs @1 :UInt64;
  cpuSystemUs @2 :UInt64;
  peakMemoryBytes @3 :UInt64;
}

enum Stream {
  stdout @0;
  stderr @1;
}

struct Chunk {
  # Consecutive bytes of one stream, with nothing of the other between them.
  position @0 :UInt64;
  # How many bytes of either stream were read before the first: what a follower resumes at.
  stream @1 :Stream;
  offset @2 :UInt64;
  # How many bytes of this stream were read before the first.
  bytes @3 :Data;
}

struct OutputTotals {
  stdoutBytes @0 :UInt64;
  stderrBytes @1 :UInt64;
  stdoutHash @2 :Data;
  # BLAKE3, 32 bytes.
  stderrHash @3 :Data;
  droppedBytes @4 :UInt64;
  # Written beyond the bound per attempt, and not kept.
}

struct Refusal {
  # An expected "no". The code is stable and in kebab case; scripts may compare it. The message is for people, lower
  # case, one line; facts are shown below it; the hint is a command to type, or empty.
  code @0 :Text;
  message @1 :Text;
  facts @2 :List(Label);
  hint @3 :Text;
}

struct Hello {
  # What either side says of itself in the first call.
  major @0 :UInt16;
  # Peers of different major versions refuse each other.
  minor @1 :UInt16;
  # A peer of the last minor version works.
  build @2 :Text;
  # For people: the program's version.
  features @3 :List(Text);
}

struct Bounds {
  # What the side that answers accepts on one connection; beyond a bound it cuts the connection.
  frameBytes @0 :UInt32;
  openCalls @1 :UInt32;
  exports @2 :UInt32;
}

struct Welcome {
  # What the pool says of itself in the answer to the first call.
  hello @0 :Hello;
  bounds @1 :Bounds;
  pool @2 :Text;
  # The pool's name.
  poolFingerprint @3 :Data;
  # 32 bytes: SHA-256 of the pool's key.
  bootId @4 :Text;
  # Of the pool's machine, as in /proc/sys/kernel/random/boot_id.
  uid @5 :UInt32;
  # Of the pool's process.
  you @6 :Text;
  # The name by which the pool knows the peer.
  owner @7 :Text;
  # The owner of what the peer submits; empty for a worker.
}
