@0xf3a1c2b47d5e6091;
# Values that several of the other files speak of. A value is compared, copied and sent; nothing happens when it is
# dropped. Durations are in the unit that their name ends with; a duration of 0 means "none" where the text says so.
# Texts are UTF-8; what a person's shell may contain in any encoding (scripts, arguments, variables, paths) is Data.
#
# Names are 1 to 64 bytes of a-z 0-9 . _ - without a dot in front. Every list and every text has a bound, and a message
# beyond one is refused: as a `Refusal` where a person may have written it, otherwise as a failed call.

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
  # What a worker offers, or a fact of a refusal.
  key @0 :Text;
  # Of a worker: 1 to 64 bytes of A-Z a-z 0-9 . _ / -
  value @1 :Text;
  # Of a worker: at most 256 bytes without control characters.
}

struct JobSpec {
  # The immutable request in a job. Script, arguments and variables together have at most 1 MiB, where each argument
  # counts 24 bytes more than it has, and each variable 48.
  script @0 :Data;
  # Bash source, byte for byte: `bash -c SCRIPT bash ARGS…`.
  args @1 :List(Data);
  name @2 :Text;
  # Empty: none.
  where @3 :Text;
  # A constraint over the workers' labels, at most 4096 bytes with a space around each mark; empty: any worker.
  env @4 :List(Variable);
  # Set last, in this order. Not those that clusterctl sets itself.
  cwd @5 :Data;
  # Absolute, at most 4096 bytes; empty: the workspace.
  timeoutMs @6 :UInt64;
  # 0: none.
  # Each attempt that runs longer is ended.
  retries @7 :UInt32;
  # Attempts that are allowed after one that was lost or could not start, at most 1000.
  priority @8 :Int8;
  # -100 to 100, higher first.
  lostAfterMs @9 :UInt64;
  # An attempt that is unknown for so long without a break is lost; 0: the pool's default.
  array @10 :List(Range);
  # At most 1000, without overlap; empty: a plain job.
  atOnce @11 :UInt32;
  # At most so many of the array's tasks at a time; 0: no such bound.
  secrets @12 :List(Variable);
  # As `env`, and set after it. From a client the values as they are; a pool answers with empty ones, and remembers them
  # sealed (12 bytes of nonce, then ChaCha20-Poly1305 with the name as associated data) until the job has ended.
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
    # Bash ended by itself with this code.
    signaled @1 :UInt8;
    # A signal that the pool did not send ended bash.
    timedOut @2 :Void;
    # Its time was over, and its whole tree was ended.
    cancelled @3 :Cancel;
    # Somebody cancelled it, before or while it ran.
    lost @4 :Text;
    # Nobody knows what became of it, or its executor died with it; says why, in at most 4096 bytes.
    spawnFailed @5 :Text;
    # Bash could not be started; says why, in at most 4096 bytes.
    quarantined @6 :Void;
    # Its attempts took their worker down too often.
  }
}

struct Usage {
  # What one attempt used, as the kernel counted it for bash and all that it waited for; in microseconds.
  runUs @0 :UInt64;
  # From the start of bash to its end, on the worker's clock.
  cpuUserUs @1 :UInt64;
  cpuSystemUs @2 :UInt64;
  peakMemoryBytes @3 :UInt64;
  # Of any one of its processes.
}

enum Stream {
  # Which of an attempt's two streams of output.
  stdout @0;
  stderr @1;
}

struct Chunk {
  # Consecutive bytes of one stream, with nothing of the other between them; 1 to 64 KiB.
  position @0 :UInt64;
  # How many bytes of either stream were read before the first: what a follower resumes at.
  stream @1 :Stream;
  offset @2 :UInt64;
  # How many bytes of this stream were read before the first.
  bytes @3 :Data;
}

struct OutputTotals {
  # What an attempt wrote in the end: enough to tell whether all of it has arrived.
  stdoutBytes @0 :UInt64;
  stderrBytes @1 :UInt64;
  stdoutHash @2 :Data;
  # BLAKE3 of all bytes of the stream, 32 bytes.
  stderrHash @3 :Data;
  droppedBytes @4 :UInt64;
  # Written beyond the bound per attempt, and not kept.
}

struct Refusal {
  # An expected "no". The code is stable and in kebab case; scripts may compare it. The message is for people, lower
  # case, one line; facts are shown below it, at most 32; the hint is a command to type, or empty. A text that is longer
  # than 8 KiB was cut.
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
  # Names of what this side can do beyond its version. Whoever does not know one passes over it; none so far.
}

struct Bounds {
  # What the side that answers accepts on one connection; beyond a bound it cuts the connection.
  frameBytes @0 :UInt32;
  # Of one frame, after the first answer.
  openCalls @1 :UInt32;
  # From the call until its answer was finished with.
  exports @2 :UInt32;
  # Capabilities of this side that the peer holds.
  openCallsBytes @3 :UInt32;
  # Frames of open calls, and of answers that were not finished with.
  unreadBytes @4 :UInt32;
  # That wait for the peer to read them.
  callsInARow @5 :UInt32;
  # Each on what the answer of the one before will bring.
  answerSteps @6 :UInt32;
  # From an answer to a capability in it.
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
  successions @8 :List(Succession);
  # If the pool had other keys: what each of them says, as long as the pool answers to it.
}

struct Succession {
  # A former key of a pool says which one has taken its place. Whoever knows the pool by the former one verifies it, and
  # knows the pool by the new one from then on.
  signer @0 :Data;
  # The former key, as a SubjectPublicKeyInfo in DER: its SHA-256 is the fingerprint by which it was known.
  next @1 :Data;
  # Fingerprint of the new one, 32 bytes.
  signature @2 :Data;
  # ECDSA of P-256 with SHA-256, in ASN.1, by the former key, of "clusterctl-succession/1" and both fingerprints.
}
