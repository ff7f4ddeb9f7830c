//! Every bound of the program, with its unit and its reason. Beyond a bound comes a refusal that names it.

/// Script, arguments and environment of a job together, in bytes: what one submit may make durable. With all else that
/// a start says of a job it stays well below a frame.
pub const SPEC_BYTES_MAX: usize = 1 << 20;
/// An argument, or a variable with its name, in bytes: Linux takes no longer one, whatever the sum is.
pub const WORD_BYTES_MAX: usize = (128 << 10) - 1;
/// A path, in bytes: Linux takes no longer one.
pub const PATH_BYTES_MAX: usize = 4096;
/// Names of pools, workers, clients, owners, jobs, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// An owner, in bytes: a name, or whatever a user of the pool's machine may be called.
pub const OWNER_BYTES_MAX: usize = 256;
/// A label's key, in bytes.
pub const LABEL_KEY_BYTES_MAX: usize = 64;
/// A label's value, in bytes.
pub const LABEL_VALUE_BYTES_MAX: usize = 256;
/// Labels of one worker.
pub const LABELS_MAX: usize = 256;
/// A constraint's text, in bytes; its parse tree is bounded by it.
pub const CONSTRAINT_BYTES_MAX: usize = 4096;
/// Nesting of parentheses and negations in a constraint: the parser recurses.
pub const CONSTRAINT_DEPTH_MAX: usize = 64;
/// Items in one page of any list.
pub const PAGE_MAX: usize = 1000;
/// Items in a page if nobody says how many.
pub const PAGE_DEFAULT: usize = 100;
/// One page of any list, in bytes: items that are large make it short.
pub const PAGE_BYTES_MAX: usize = 1 << 20;
/// Slots of one worker.
pub const SLOTS_MAX: u32 = 4096;
/// Tasks of one owner that have not ended.
pub const QUEUE_TASKS_PER_OWNER_MAX: u64 = 1_000_000;
/// Tasks of a pool that have not ended.
pub const QUEUE_TASKS_MAX: u64 = 10_000_000;
/// Further attempts that a submit may ask for.
pub const RETRIES_MAX: u32 = 1000;
/// Workers that the attempts of one task may take down; then it is given to no other.
pub const WORKERS_LOST_MAX: u32 = 3;
/// Executors that a worker may speak of when it registers: the present one and those before it.
pub const EXECUTORS_CARRIED_MAX: usize = 64;
/// Followers of one job.
pub const FOLLOWERS_PER_JOB_MAX: usize = 64;
/// Waiters for the end of one job: each costs a few bytes and one message.
pub const WAITERS_PER_JOB_MAX: usize = 4096;
/// Entries of the audit trail that are kept; the oldest go first.
pub const AUDIT_ENTRIES_MAX: u64 = 1_000_000;
/// Decisions at the door are counted for so long before they are written again.
pub const AUDIT_WINDOW: std::time::Duration = std::time::Duration::from_secs(60);
/// Different decisions that are counted at a time; beyond, sources are no longer told apart.
pub const AUDIT_SOURCES_MAX: usize = 4096;
/// One text of an audit entry, in bytes.
pub const AUDIT_TEXT_BYTES_MAX: usize = 512;
/// The words for how an attempt was lost or could not start, in bytes; longer ones are cut.
pub const REASON_BYTES_MAX: usize = 4096;
/// Output kept per attempt, in bytes; beyond it is truncated and marked.
pub const OUTPUT_PER_ATTEMPT_BYTES_MAX: u64 = 1 << 30;
/// Output kept per pool unless `--output-limit` says otherwise, in bytes.
pub const OUTPUT_PER_POOL_BYTES: u64 = 10 << 30;
/// What is to stay free on a pool's disk, in bytes, if that is less than a twentieth of it: below, nothing new is accepted.
pub const DISK_FREE_BYTES: u64 = 256 << 20;
/// So many bytes of output are written before somebody looks again how much room there is; a chunk where there is little.
pub const DISK_LOOK_BYTES: u64 = 1 << 20;
/// Output that rides in an ending record instead of the output files, in bytes: a tiny job costs one commit.
pub const OUTPUT_INLINE_BYTES_MAX: usize = 4096;
/// Chunks that ride in an ending record: output that changes its stream at every byte would be all headers.
pub const OUTPUT_INLINE_CHUNKS_MAX: usize = 64;
/// One chunk of output on the wire, in bytes: below 16 KiB a message's cost hardly depends on its size.
pub const OUTPUT_CHUNK_BYTES_MAX: usize = 64 << 10;
/// Unacknowledged output per connection, in bytes: a slow link must still carry heartbeats.
pub const OUTPUT_IN_FLIGHT_BYTES_MAX: usize = 1 << 20;
/// Unacknowledged output that an executor holds in memory per attempt, in bytes, before it goes to a file.
pub const SPOOL_MEMORY_BYTES_MAX: usize = 256 << 10;
/// A segment of shared output is sealed at this size, in bytes: what retention drops at a time.
pub const OUTPUT_SEGMENT_BYTES: u64 = 16 << 20;
/// One batch of placements or reports on the wire, in bytes.
pub const BATCH_BYTES_MAX: usize = 512 << 10;
/// Reports in one call: so many of the largest endings are less than a frame.
pub const REPORTS_PER_CALL_MAX: usize = 128;
/// A frame before the first call has returned, in bytes.
pub const FRAME_BYTES_MAX_FIRST: usize = 16 << 10;
/// A frame afterwards, in bytes.
pub const FRAME_BYTES_MAX: usize = 2 << 20;
/// Nesting of a message.
pub const MESSAGE_DEPTH_MAX: i32 = 32;
/// Requests that one turn of the pool's loop takes in.
pub const TURN_REQUESTS_MAX: usize = 4096;
/// What one turn of the pool's loop commits, about: one request more may come on top.
pub const TURN_BYTES_MAX: usize = 32 << 20;
/// Requests that wait for the pool's loop; more make their senders wait.
pub const CORE_QUEUE_MAX: usize = 16 << 10;
/// Effects that wait for one connection's pump; a connection that is further behind is cut.
pub const PUMP_QUEUE_MAX: usize = 4096;
/// Ended submits whose request id is still kept in memory; older ones are looked up in the history.
pub const REQUESTS_REMEMBERED_MAX: usize = 100_000;
/// The message that enrols a key, in bytes.
pub const ENROL_MESSAGE_BYTES_MAX: usize = 4096;
/// The head of a proxy's answer, in bytes.
pub const PROXY_HEAD_BYTES_MAX: usize = 16 << 10;
/// Former keys that a pool answers to.
pub const FORMER_KEYS_MAX: usize = 8;
/// Unspent tokens of a pool.
pub const TOKENS_MAX: usize = 10_000;
/// Keys that a token may be bound to let in: it remembers each of them.
pub const TOKEN_USES_MAX: u32 = 10_000;
/// Ranges of an array's indices: a sorted list, as `1-5,8,10-12`.
pub const ARRAY_RANGES_MAX: usize = 1000;
/// Calls that a peer may have open on one connection: from its call until we have answered and it has finished with the
/// answer. Each costs memory until then, also one that waits for the answer to another and never reaches a method.
pub const OPEN_CALLS_MAX: u32 = 256;
/// Frames of a peer's open calls, and of answers that it has not finished with, in bytes: sixteen of the largest.
pub const OPEN_CALLS_BYTES_MAX: usize = 16 * FRAME_BYTES_MAX;
/// Calls that a peer gave up before they were answered: capnp-rpc keeps some hundred bytes of each, for ever.
pub const CALLS_GIVEN_UP_MAX: usize = 16 << 10;
/// Capabilities that one side of a connection may hold of the other, and that its open calls may carry.
pub const EXPORTS_MAX: u32 = 1024;
/// Steps from an answer to a capability in it: a call to what is not answered yet remembers each.
pub const PIPELINE_STEPS_MAX: u32 = 32;
/// Calls that wait for the answers to each other in a row, each on what the one before will return: capnp-rpc goes down
/// such a row by recursion, and some hundred overflow a thread's stack.
pub const CALLS_IN_A_ROW_MAX: usize = 16;
/// Calls that we keep open on one connection ourselves: half of what a peer accepts.
pub const OWN_CALLS_MAX: usize = 128;
/// Frames of the calls that we keep open ourselves, in bytes; one more may come on top. A quarter of what a peer accepts.
pub const OWN_CALLS_BYTES_MAX: usize = 8 << 20;
/// A frame is believed to become so large, in bytes, before it is there; a larger one is allocated as it comes.
pub const FRAME_BYTES_BELIEVED: usize = 128 << 10;
/// Bytes that a peer has not taken, beyond which we send no further calls: what it does not read need not be made.
pub const BACKLOG_BYTES_ENOUGH: usize = 4 << 20;
/// Bytes that a peer has not taken, beyond which it is cut: it asks, and does not read the answers.
pub const BACKLOG_BYTES_MAX: usize = 16 << 20;
/// What a peer that does not read makes us keep beside that, in bytes, about: what is half sent, and what is encrypted.
pub const BACKLOG_BYTES_BESIDE: usize = 128 << 10;
/// What all peers of a pool together make it keep for them, in bytes; beyond it the peer with most is cut.
pub const PEERS_BYTES_MAX: usize = 256 << 20;
/// Followings on one connection: each may have read 256 KiB ahead of a peer that does not take them.
pub const FOLLOWINGS_PER_CONNECTION_MAX: usize = 64;
/// Jobs whose end one connection waits for, over all its calls: each costs about a KiB while it lasts.
pub const WAITED_PER_CONNECTION_MAX: usize = 8 * PAGE_MAX;
/// Connections that the kernel keeps until the pool takes them: beyond it, it drops what comes, and a peer tries again
/// only after a second. A flood is sent away faster than that.
pub const CONNECTIONS_NOT_TAKEN_MAX: i32 = 4096;
/// Connections of a pool whose peer is not known yet: each costs a descriptor, some KiB, and a signature.
pub const UNKNOWN_PEERS_MAX: usize = 64;
/// From so many unknown peers on, one of them is dropped now and then for a new one, the oftener the more there are.
pub const UNKNOWN_PEERS_DROPPED_FROM: usize = 10;
/// Unknown peers from one source: an IPv4 address, or the half of an IPv6 address that names a network.
pub const UNKNOWN_PEERS_PER_SOURCE_MAX: usize = 8;
/// Places among the unknown peers that only sources have from which a known key came lately.
pub const UNKNOWN_PEERS_OF_KNOWN_SOURCES: usize = 16;
/// Sources that are remembered for that; the one that was not heard for longest goes first.
pub const KNOWN_SOURCES_MAX: usize = 1024;
/// What an unknown peer may send, in bytes: a handshake with a certificate takes less than 4 KiB.
pub const UNKNOWN_PEER_BYTES_MAX: usize = 16 << 10;

/// What is to stay free where a worker keeps output and workspaces, in bytes, if that is less than a twentieth of the
/// disk: below, it takes nothing more.
pub const WORKER_DISK_FREE_BYTES: u64 = 64 << 20;
/// The name of a full place, in bytes, as a worker tells it.
pub const PATH_SHOWN_BYTES_MAX: usize = 512;
/// A worker is handed at most so many times its slots beyond them.
pub const PREFETCH_ROUNDS_MAX: u32 = 16;
/// And at most so many tasks beyond its slots.
pub const PREFETCH_TASKS_MAX: u32 = 1024;
/// Of jobs whose script and environment are at most so many bytes.
pub const PREFETCH_SPEC_BYTES_MAX: usize = 16 << 10;
