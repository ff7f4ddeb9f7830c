//! Peers that mean harm: whatever they send, the pool stays small, others are served, and only they are cut.
//!
//! Each is measured by the most memory that the pool ever had meanwhile, not by what is left of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use capnp::message::{Builder, HeapAllocator};
use capnp::traits::HasTypeId;
use capnp_rpc::rpc_capnp::{call, message, return_};
use clusterctl::core::limits;
use clusterctl::core::timing::Timing;
use clusterctl::net::connection::Connection;
use clusterctl::net::dial::{self, Route};
use clusterctl::net::key::KeyPair;
use clusterctl::net::tls::{self, Expected};
use clusterctl::schema::pool_capnp::{client_door, job, pool};
use clusterctl::wire;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::cluster::{Cluster, DEADLINE, Home, wait_until};
use crate::network::pool_key;

/// What a hostile peer may cost.
const BUDGET: usize = 64 << 20;

/// A call that is almost as large as a frame may be.
const LARGE_BYTES: usize = limits::FRAME_BYTES_MAX - (64 << 10);

/// Numbers of the calls by which every peer here begins.
const BOOTSTRAP: u32 = 0;
const HELLO: u32 = 1;

/// A pool with somebody who means no harm, and somebody who does.
struct Scene {
    cluster: Cluster,
    ann: Home,
    mallory: Home,
    bystander: Raw,
    before: usize,
}

impl Scene {
    async fn new() -> Self {
        let cluster = Cluster::start();
        let (ann, mallory) = (cluster.client("ann"), cluster.client("mallory"));
        let mut bystander = Raw::greeted(&cluster, &ann).await;
        bystander.must_be_served(HELLO + 1).await;
        // From here on the highest water mark is the attack's.
        std::fs::write(format!("/proc/{}/clear_refs", cluster.pool_pid()), "5").unwrap();
        let before = memory(&cluster, "VmRSS:");
        Self { cluster, ann, mallory, bystander, before }
    }

    async fn mallory(&self) -> Raw {
        Raw::greeted(&self.cluster, &self.mallory).await
    }

    /// A job that nobody runs, with a script of so many bytes.
    fn waiting_job(&self, bytes: usize) -> u64 {
        let script = format!("true{}", " ".repeat(bytes));
        self.mallory.run_with_input(["submit", "-"], script.as_bytes()).ok().trim().parse().unwrap()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.cluster.operator.path().join("pool.log")).unwrap()
    }

    /// So many connections of the offender were cut, and the log says for what.
    fn must_have_cut(&self, bound: &str, times: usize) {
        let said = |line: &&str| line.contains(bound) && line.contains("client mallory");
        wait_until(&format!("the log says {times} times {bound}"), || {
            self.log().lines().filter(said).count() == times
        });
    }

    /// How much more the pool has had at most.
    fn grown(&self) -> usize {
        memory(&self.cluster, "VmHWM:").saturating_sub(self.before)
    }

    /// Others are served, also those who were connected all the while, and the pool has stayed small.
    async fn must_be_well(mut self, what: &str) {
        self.bystander.must_be_served(HELLO + 2).await;
        let began = Instant::now();
        self.ann.run(["jobs"]).ok();
        let served = began.elapsed();
        let grown = self.grown();
        println!("{what}: at most {} KiB more, another client served in {served:?}", grown >> 10);
        assert!(grown <= BUDGET, "{what}: the pool grew by {} MiB", grown >> 20);
        assert!(!self.log().contains("peer=client ann"), "somebody else was cut: {}", self.log());
    }
}

/// What the kernel says of the pool's memory, in bytes.
fn memory(cluster: &Cluster, what: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", cluster.pool_pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

/// What becomes of a call.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Came,
    Cut,
}

/// A connection of a known key, and whatever is sent over it.
struct Raw(Connection);

impl Raw {
    async fn dialled(cluster: &Cluster, home: &Home) -> Self {
        let key = KeyPair::load_or_create(&home.state().join("client/key")).unwrap();
        let route = Route::direct(Timing::default());
        Self(dial::dial(&cluster.address, &key, pool_key(cluster), &route).await.unwrap())
    }

    /// One that was answered to its first call: its frames may be large.
    async fn greeted(cluster: &Cluster, home: &Home) -> Self {
        let mut raw = Self::dialled(cluster, home).await;
        let mut bootstrap = Builder::new_default();
        bootstrap.init_root::<message::Builder<'_>>().init_bootstrap().set_question_id(BOOTSTRAP);
        raw.send(&bootstrap).await.unwrap();
        let hello = request(HELLO, BOOTSTRAP, &[], client_door::Client::TYPE_ID, 0, |mut call| {
            let params = call.reborrow().init_params().init_content();
            let hello = params.init_as::<client_door::hello_params::Builder<'_>>().init_hello();
            wire::hello::write(&wire::hello::Hello::ours(), hello);
        });
        raw.send(&hello).await.unwrap();
        raw.answered(HELLO).await;
        raw
    }

    async fn send(&mut self, message: &Builder<HeapAllocator>) -> std::io::Result<()> {
        self.write(&capnp::serialize::write_message_to_words(message)).await
    }

    async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.stream.write_all(bytes).await?;
        self.0.stream.flush().await
    }

    /// Waits until a call was answered by results.
    async fn answered(&mut self, question: u32) {
        assert_eq!(self.answer(question).await, Answer::Came);
    }

    /// What becomes of a call.
    async fn answer(&mut self, question: u32) -> Answer {
        let answer = async {
            loop {
                let Ok(frame) = self.frame().await else { return Answer::Cut };
                let read =
                    capnp::serialize::read_message_from_flat_slice(&mut &frame[..], Default::default());
                let read = read.unwrap();
                match read.get_root::<message::Reader<'_>>().unwrap().which() {
                    Ok(message::Return(Ok(answer))) if answer.get_answer_id() == question => {
                        assert!(matches!(answer.which(), Ok(return_::Results(_))));
                        return Answer::Came;
                    }
                    Ok(message::Abort(_)) => return Answer::Cut,
                    _ => {}
                }
            }
        };
        tokio::time::timeout(DEADLINE, answer).await.expect("the pool answers")
    }

    /// The next frame, as it came.
    async fn frame(&mut self) -> std::io::Result<Vec<u8>> {
        let mut frame = vec![0; 4];
        self.0.stream.read_exact(&mut frame).await?;
        let segments = u32::from_le_bytes(frame[..4].try_into().unwrap()) as usize + 1;
        frame.resize((4 + 4 * segments).next_multiple_of(8), 0);
        self.0.stream.read_exact(&mut frame[4..]).await?;
        let lengths = frame[4..4 + 4 * segments].chunks(4);
        let words: u32 = lengths.map(|length| u32::from_le_bytes(length.try_into().unwrap())).sum();
        let header = frame.len();
        frame.resize(header + words as usize * 8, 0);
        self.0.stream.read_exact(&mut frame[header..]).await?;
        Ok(frame)
    }

    /// Asks the pool how it is.
    async fn must_be_served(&mut self, question: u32) {
        self.send(&request(question, HELLO, &[1], pool::Client::TYPE_ID, 5, |_| {})).await.unwrap();
        self.answered(question).await;
    }

    /// Reads until the pool has hung up; with everything that came.
    async fn must_be_cut(&mut self) -> Vec<u8> {
        let mut said = Vec::new();
        // However it ends: an orderly end, or a reset.
        let ended = tokio::time::timeout(DEADLINE, self.0.stream.read_to_end(&mut said)).await;
        assert!(ended.is_ok(), "the pool keeps the connection");
        said
    }
}

/// A call to something in the answer to another call.
fn request(
    question: u32,
    target: u32,
    path: &[u16],
    interface: u64,
    method: u16,
    fill: impl FnOnce(call::Builder<'_>),
) -> Builder<HeapAllocator> {
    let mut builder = Builder::new(HeapAllocator::new().first_segment_words(4096));
    let mut call = builder.init_root::<message::Builder<'_>>().init_call();
    call.set_question_id(question);
    call.set_interface_id(interface);
    call.set_method_id(method);
    let mut answer = call.reborrow().init_target().init_promised_answer();
    answer.set_question_id(target);
    let mut steps = answer.init_transform(u32::try_from(path.len()).unwrap());
    for (n, field) in (0..).zip(path) {
        steps.reborrow().get(n).set_get_pointer_field(*field);
    }
    fill(call);
    builder
}

/// `Pool.wait` for a job that does not end.
fn wait_call(question: u32, job: u64, exports: std::ops::Range<u32>) -> Builder<HeapAllocator> {
    request(question, HELLO, &[1], pool::Client::TYPE_ID, 3, |call| {
        let mut params = call.init_params();
        let mut table = params.reborrow().init_cap_table(u32::try_from(exports.len()).unwrap());
        for (n, id) in (0..).zip(exports) {
            table.reborrow().get(n).set_sender_hosted(id);
        }
        params.init_content().init_as::<pool::wait_params::Builder<'_>>().init_ids(1).set(0, job);
    })
}

/// `Pool.job`.
fn job_call(question: u32, job: u64) -> Builder<HeapAllocator> {
    request(question, HELLO, &[1], pool::Client::TYPE_ID, 1, |call| {
        let params = call.init_params().init_content();
        params.init_as::<pool::job_params::Builder<'_>>().set_id(job);
    })
}

/// The first bytes of a frame of one segment.
fn claim(bytes: usize) -> Vec<u8> {
    let mut claim = 0_u32.to_le_bytes().to_vec();
    claim.extend(u32::try_from(bytes / 8).unwrap().to_le_bytes());
    claim.resize(24, 0);
    claim
}

#[tokio::test]
async fn a_hundred_peers_that_claim_63_mebibytes_cost_nothing_and_are_cut() {
    let scene = Scene::new().await;
    let mut peers = Vec::new();
    for _ in 0..100 {
        let mut peer = scene.mallory().await;
        peer.write(&claim(63 << 20)).await.unwrap();
        peers.push(peer);
    }

    for peer in &mut peers {
        peer.must_be_cut().await;
    }

    scene.must_have_cut("a frame of 66060288 bytes, the bound is 2097152", 100);
    scene.must_be_well("a hundred claims of 63 MiB").await;
}

#[tokio::test]
async fn a_hundred_peers_that_claim_what_they_may_cost_what_they_send() {
    let scene = Scene::new().await;
    let mut peers = Vec::new();
    for _ in 0..100 {
        let mut peer = scene.mallory().await;
        peer.write(&claim(limits::FRAME_BYTES_MAX)).await.unwrap();
        peer.write(&[0; 100_000]).await.unwrap();
        peers.push(peer);
    }

    // All are still there, and may go on.
    assert_eq!(scene.log().matches("cut a peer").count(), 0);
    scene.must_be_well("a hundred claims of 2 MiB").await;
    drop(peers);
}

#[tokio::test]
async fn before_the_first_answer_a_frame_is_small() {
    let scene = Scene::new().await;
    let mut peer = Raw::dialled(&scene.cluster, &scene.mallory).await;

    peer.write(&claim(limits::FRAME_BYTES_MAX_FIRST + 8)).await.unwrap();

    peer.must_be_cut().await;
    scene.must_be_well("a first frame of 16 KiB and a word").await;
}

#[tokio::test]
async fn twenty_thousand_calls_that_are_never_answered_end_at_the_bound() {
    let scene = Scene::new().await;
    let job = scene.waiting_job(0);
    let mut peer = scene.mallory().await;

    let mut sent = 0;
    for question in 2..20_002 {
        if peer.send(&wait_call(question, job, 0..0)).await.is_err() {
            break;
        }
        sent += 1;
    }
    let said = peer.must_be_cut().await;

    println!("{sent} calls were taken by the kernel before the pool had hung up");
    scene.must_have_cut("more than 256 open calls", 1);
    let told = String::from_utf8_lossy(&said).contains("more than 256 open calls");
    println!("the peer was told: {told}");
    scene.must_be_well("20,000 calls that are never answered").await;
}

#[tokio::test]
async fn twenty_thousand_pipelined_calls_end_at_the_bound_although_none_reaches_a_method() {
    let scene = Scene::new().await;
    let job = scene.waiting_job(0);
    let mut peer = scene.mallory().await;
    peer.send(&wait_call(2, job, 0..0)).await.unwrap();

    for question in 3..20_003 {
        // On something in an answer that does not come.
        let call = request(question, 2, &[0], job::Client::TYPE_ID, 0, |_| {});
        if peer.send(&call).await.is_err() {
            break;
        }
    }
    peer.must_be_cut().await;

    scene.must_have_cut("more than 256 open calls", 1);
    scene.must_be_well("20,000 pipelined calls").await;
}

#[tokio::test]
async fn a_long_row_of_calls_on_each_others_answers_is_cut_before_it_overflows_a_stack() {
    let scene = Scene::new().await;
    let job = scene.waiting_job(0);
    let mut peer = scene.mallory().await;
    peer.send(&wait_call(2, job, 0..0)).await.unwrap();

    for question in 3..250 {
        let call = request(question, question - 1, &[0], job::Client::TYPE_ID, 0, |_| {});
        if peer.send(&call).await.is_err() {
            break;
        }
    }
    peer.must_be_cut().await;

    scene.must_have_cut("more than 16 calls in a row", 1);
    scene.must_be_well("a row of calls").await;
}

/// A call of almost a frame, on something in the answer to the second one.
fn large_call(question: u32) -> Builder<HeapAllocator> {
    request(question, 2, &[0], job::Client::TYPE_ID, 0, |call| {
        let filling = u32::try_from(LARGE_BYTES).unwrap();
        call.init_params().init_content().initn_as::<capnp::data::Builder<'_>>(filling).fill(0xff);
    })
}

#[tokio::test]
async fn what_peers_make_the_pool_keep_is_seen_also_when_it_is_more_than_one_of_them_may_cost() {
    const PEERS: usize = 4;
    const CALLS: u32 = 12;
    let scene = Scene::new().await;
    let job = scene.waiting_job(0);
    let mut peers = Vec::new();
    for _ in 0..PEERS {
        let mut peer = scene.mallory().await;
        peer.send(&wait_call(2, job, 0..0)).await.unwrap();
        for question in 3..3 + CALLS {
            peer.send(&large_call(question)).await.unwrap();
        }
        peers.push(peer);
    }
    let sent = PEERS * CALLS as usize * LARGE_BYTES;
    assert!(sent > BUDGET);

    wait_until("the pool is seen to keep all of it", || scene.grown() >= sent);

    assert_eq!(scene.log().matches("cut a peer").count(), 0);
    drop(peers);
}

#[tokio::test]
async fn large_calls_that_are_never_answered_end_at_their_bytes() {
    let scene = Scene::new().await;
    let job = scene.waiting_job(0);
    let mut peer = scene.mallory().await;
    peer.send(&wait_call(2, job, 0..0)).await.unwrap();
    let mut frames = 0;

    for question in 3..250 {
        if peer.send(&large_call(question)).await.is_err() {
            break;
        }
        frames += 1;
    }
    peer.must_be_cut().await;

    assert!(frames < 100, "{frames} frames of 2 MiB were taken");
    scene.must_have_cut("bytes in open calls", 1);
    scene.must_be_well("calls of 2 MiB that are never answered").await;
}

#[tokio::test]
async fn a_peer_that_never_reads_is_cut() {
    let scene = Scene::new().await;
    let job = scene.waiting_job(1 << 19);
    let mut peer = scene.mallory().await;
    peer.send(&job_call(2, job)).await.unwrap();

    for question in 3..250 {
        // The whole script each time.
        if peer.send(&request(question, 2, &[0], job::Client::TYPE_ID, 1, |_| {})).await.is_err() {
            break;
        }
    }

    scene.must_have_cut("bytes that were not read", 1);
    scene.must_be_well("answers that nobody reads").await;
    drop(peer);
}

#[tokio::test]
async fn a_thousand_peers_that_do_not_read_share_one_budget_and_those_with_most_go() {
    // Each stays below its own bound: together they are beyond that of all.
    const PEERS: usize = 1000;
    const ANSWERS: u32 = 1;
    let scene = Scene::new().await;
    let job = scene.waiting_job(1 << 19);
    let mut peers = Vec::new();
    for _ in 0..PEERS {
        let mut peer = scene.mallory().await;
        peer.send(&job_call(2, job)).await.unwrap();
        for question in 3..3 + ANSWERS {
            // One that was cut for another's sake is cut.
            let _ = peer.send(&request(question, 2, &[0], job::Client::TYPE_ID, 1, |_| {})).await;
        }
        peers.push(peer);
    }

    wait_until("some have gone", || scene.log().contains("the largest share of what all peers"));
    let Scene { cluster, ann, mut bystander, .. } = scene;
    bystander.must_be_served(HELLO + 2).await;
    let began = Instant::now();
    ann.run(["jobs"]).ok();
    let served = began.elapsed();
    let most = memory(&cluster, "VmHWM:");
    let log = std::fs::read_to_string(cluster.operator.path().join("pool.log")).unwrap();
    let cut = log.lines().filter(|line| line.contains("cut a peer")).count();
    println!(
        "{PEERS} peers that do not read: {} MiB in all, {cut} cut, another served in {served:?}",
        most >> 20
    );
    assert!(most <= 512 << 20, "the pool had {} MiB", most >> 20);
    assert!(cut < PEERS && !log.contains("peer=client ann"), "{cut} were cut");
    drop(peers);
}

#[tokio::test]
async fn whoever_keeps_every_capability_is_cut() {
    let scene = Scene::new().await;
    let job = scene.waiting_job(0);
    let mut peer = scene.mallory().await;

    for question in 2..10_000 {
        let mut finish = Builder::new_default();
        let mut finished = finish.init_root::<message::Builder<'_>>().init_finish();
        finished.set_question_id(question);
        finished.set_release_result_caps(false);
        if peer.send(&job_call(question, job)).await.is_err() {
            break;
        }
        // Each is answered and finished, so that no call is open, and its capability kept.
        if peer.answer(question).await == Answer::Cut || peer.send(&finish).await.is_err() {
            break;
        }
    }

    scene.must_have_cut("more than 1024 capabilities", 1);
    scene.must_be_well("capabilities that are never released").await;
}

#[tokio::test]
async fn calls_that_carry_thousands_of_capabilities_are_cut() {
    let scene = Scene::new().await;
    let job = scene.waiting_job(0);
    let mut peer = scene.mallory().await;

    for question in 2..100 {
        let exports = question * 600..(question + 1) * 600;
        if peer.send(&wait_call(question, job, exports)).await.is_err() {
            break;
        }
    }
    peer.must_be_cut().await;
    let mut other = scene.mallory().await;
    // Half a million capabilities in a frame of a few words: each is nothing.
    other.write(&void_table()).await.unwrap();
    other.must_be_cut().await;

    scene.must_have_cut("more than 1024 capabilities", 2);
    scene.must_be_well("calls with many capabilities").await;
}

/// A call whose table of capabilities is a list of half a million structs without any size.
fn void_table() -> Vec<u8> {
    let call = request(2, HELLO, &[1], pool::Client::TYPE_ID, 5, |call| {
        call.init_params().init_cap_table(1);
    });
    let mut bytes = capnp::serialize::write_message_to_words(&call);
    // The tag of the table's only element of one word and one pointer: a count, and the size of an element.
    let tag = [&(1_u32 << 2).to_le_bytes()[..], &[1, 0, 1, 0]].concat();
    let at = bytes.chunks(8).rposition(|word| word == tag).unwrap() * 8;
    bytes[at..at + 4].copy_from_slice(&(500_000_u32 << 2).to_le_bytes());
    bytes[at + 4..at + 8].copy_from_slice(&[0; 4]);
    bytes
}

/// Holds a connection open and says next to nothing; comes back when it is sent away, at most every other second. (Where
/// others want the processors too, thousands a second leave the pool none to answer with, whoever it lets in.)
async fn slow_loris(from: Ipv4Addr, to: SocketAddr, dials: Arc<AtomicUsize>) {
    let mut again = tokio::time::interval(Duration::from_secs(2));
    again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        again.tick().await;
        dials.fetch_add(1, Ordering::Relaxed);
        let Ok(socket) = TcpSocket::new_v4() else { return };
        if socket.bind(SocketAddr::from((from, 0))).is_err() {
            return;
        }
        let Ok(mut stream) = socket.connect(to).await else { continue };
        // The first byte of a handshake.
        let _ = stream.write_all(&[22]).await;
        let _ = stream.read(&mut [0; 16]).await;
    }
}

#[test]
fn thousands_of_slow_loris_connections_keep_nobody_out() {
    let cluster = Cluster::start();
    let token = cluster.token("--client");
    let (soft, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let count = u32::try_from(hard.saturating_sub(500).min(5000)).unwrap();
    let to: SocketAddr = cluster.address.parse().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (dialled, begun) = std::sync::mpsc::channel();
    let dials = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&dials);
    let attack = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut flood = tokio::task::JoinSet::new();
            for n in 0..count {
                // Each from an address of its own.
                flood.spawn(slow_loris(Ipv4Addr::from(0x7f01_0001 + n), to, Arc::clone(&counter)));
            }
            // Whoever is before the pool's door by now does not leave it by himself.
            drop(TcpStream::connect(to).await);
            dialled.send(()).unwrap();
            let _ = stopped.await;
        });
    });
    begun.recv().unwrap();
    let before = memory(&cluster, "VmRSS:");

    let ann = cluster.site.home("ann");
    let began = Instant::now();
    ann.run(["context", "add", "lab", &cluster.address, "--token", &token, "--as", "ann"]).ok();
    let joined = began.elapsed();
    let mut served = Vec::new();
    wait_until("each of them has come back twice", || {
        let began = Instant::now();
        ann.run(["jobs"]).ok();
        served.push(began.elapsed());
        dials.load(Ordering::Relaxed) >= 3 * count as usize
    });
    let grown = memory(&cluster, "VmHWM:").saturating_sub(before);
    drop(stop);
    attack.join().unwrap();
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, soft, hard).unwrap();

    println!(
        "{count} slow loris connections, {} dials: a stranger joined in {joined:?}, then got in within {:?}; {} KiB more",
        dials.load(Ordering::Relaxed),
        served.iter().max().unwrap(),
        grown >> 10
    );
    assert!(grown <= BUDGET);
}

#[tokio::test]
async fn garbage_at_each_layer_gets_nothing_and_harms_nobody() {
    let scene = Scene::new().await;
    let expected = Expected::Key(pool_key(&scene.cluster));
    let stranger = KeyPair::generate().unwrap();
    let noise: Vec<u8> =
        (0..40_000_u32).flat_map(|n| blake3::hash(&n.to_le_bytes()).as_bytes()[..4].to_vec()).collect();

    // TCP.
    for from in [0, 1000, 5000] {
        let mut stream = TcpStream::connect(&scene.cluster.address).await.unwrap();
        let _ = stream.write_all(&noise[from..from + 20_000]).await;
        read_little(&mut stream).await;
    }
    // TLS with another protocol, or none; enrolment that is none.
    for (alpn, said) in [
        (&b"h2"[..], &noise[..100]),
        (b"", &noise[..100]),
        (tls::ALPN_ENROL, &noise[..3000]),
        (tls::ALPN_ENROL, &[0xff, 0xff, 0, 1][..]),
        (tls::ALPN_ENROL, &noise[..60_000]),
    ] {
        let mut config = tls::client_config(&stranger, expected, alpn).unwrap();
        config.alpn_protocols.retain(|alpn| !alpn.is_empty());
        let stream = TcpStream::connect(&scene.cluster.address).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("clusterctl").unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        if let Ok(mut stream) = connector.connect(name, stream).await {
            let _ = stream.write_all(said).await;
            let _ = stream.flush().await;
            read_little(&mut stream).await;
        }
    }
    // After hello: bytes that are no frames, and frames that are no messages.
    for from in 0..50 {
        let mut peer = scene.mallory().await;
        let _ = peer.write(&noise[from * 64..from * 64 + 30_000]).await;
        peer.must_be_cut().await;
    }
    for from in 0..50 {
        let mut peer = scene.mallory().await;
        for n in 0..20 {
            let mut frame = claim(1 << 10)[..8].to_vec();
            frame.extend(&noise[(from * 20 + n) * 128..][..1 << 10]);
            if peer.write(&frame).await.is_err() {
                break;
            }
        }
        peer.must_be_cut().await;
    }

    scene.must_be_well("garbage").await;
}

/// Reads to the end, which must come, and before which next to nothing is said.
async fn read_little(stream: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let mut said = Vec::new();
    let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut said)).await;
    assert!(read.is_ok(), "the pool keeps the connection");
    assert!(said.len() < 200, "{} bytes were said to a stranger", said.len());
}
