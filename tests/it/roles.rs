//! Connections of each role to a real pool, made by the library's own code, and what a role is given on them.

use std::future::pending;
use std::sync::Arc;

use capnp::capability::{Client, FromClientHook};
use clusterctl::core::id::{Fingerprint, Incarnation, Name};
use clusterctl::core::label::Labels;
use clusterctl::core::membership::{Carried, Facts, SubmitterTrust, Tenure};
use clusterctl::core::pool::NameChoice;
use clusterctl::core::refusal::Refusal;
use clusterctl::core::succession::Renewal;
use clusterctl::core::timing::Timing;
use clusterctl::net::connection::{self, Connection, Peer};
use clusterctl::net::dial::{self, Route};
use clusterctl::net::enrol;
use clusterctl::net::key::KeyPair;
use clusterctl::net::succession;
use clusterctl::net::tls::{self, Expected};
use clusterctl::net::token::Token;
use clusterctl::process::clock;
use clusterctl::schema::pool_capnp::{admin, client_door, job, pool, sink};
use clusterctl::schema::worker_capnp::{registered, registrar, worker, worker_door};
use clusterctl::store::place;
use clusterctl::wire;

use crate::cluster::Cluster;

/// Takes nothing, and answers to nothing.
pub struct Idle;

impl worker::Server for Idle {}
impl sink::Server for Idle {}

/// A capability, and the interface as which it was given.
pub type Held = (&'static str, Client);

/// Starts Cap'n Proto on a connection: what the other side offers to whoever is here.
fn bootstrap<T: FromClientHook>(connection: Connection) -> T {
    let (door, link) = connection::dialled(connection, clock::now);
    tokio::task::spawn_local(link.run(pending()));
    door
}

/// What a key is offered that nobody knows, by a protocol of the network.
pub async fn stranger(cluster: &Cluster, protocol: &'static [u8]) -> Client {
    let key = KeyPair::generate().unwrap();
    let config = tls::client_config(&key, Expected::Anyone, protocol).unwrap();
    let stream = tokio::net::TcpStream::connect(&cluster.address).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("clusterctl").unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    bootstrap(Connection { stream: Box::pin(stream), peer: Peer::Key(Fingerprint([0; 32])) })
}

/// What a key is offered that a token of this role let in.
async fn known<T: FromClientHook>(cluster: &Cluster, role: &str, name: &str) -> (T, Fingerprint) {
    let token: Token = cluster.token(role).parse().unwrap();
    let (key, name) = (KeyPair::generate().unwrap(), Name::parse(name).unwrap());
    let route = Route::direct(Timing::default());
    let wish = (&name, NameChoice::Given);
    let enrolled = enrol::enrol(&cluster.address, &key, &token, wish, &route).await.unwrap();
    let connection = dial::dial(&cluster.address, &key, enrolled.pool_key, &route).await.unwrap();
    (bootstrap(connection), key.fingerprint())
}

/// What somebody says whose new key is to take the place of another.
async fn renewal(pool: &str, before: Fingerprint) -> Renewal {
    let pool = dial::look(pool, &Route::direct(Timing::default())).await.unwrap();
    succession::renew(pool, before, &KeyPair::generate().unwrap()).unwrap()
}

/// Somebody who may submit.
pub struct Submitter {
    address: String,
    /// By which the pool knows it, if it came over the network.
    pub key: Option<Fingerprint>,
    door: client_door::Client,
    pub pool: pool::Client,
    pub admin: Option<admin::Client>,
}

impl Submitter {
    /// A client of an owner of its own.
    pub async fn client(cluster: &Cluster, name: &str) -> Self {
        let (door, key) = known(cluster, "--client", name).await;
        Self::by(cluster, door, Some(key)).await
    }

    /// The pool's own user, by the socket.
    pub async fn admin(cluster: &Cluster) -> Self {
        let socket = place::socket_path(&cluster.operator.state().join("lab"));
        Self::by(cluster, bootstrap(dial::dial_local(&socket).await.unwrap()), None).await
    }

    async fn by(cluster: &Cluster, door: client_door::Client, key: Option<Fingerprint>) -> Self {
        let mut request = door.hello_request();
        wire::hello::write(&wire::hello::Hello::ours(), request.get().init_hello());
        let answer = request.send().promise.await.unwrap();
        let answer = answer.get().unwrap();
        let admin = answer.has_admin().then(|| answer.get_admin().unwrap());
        Self { address: cluster.address.clone(), key, door, pool: answer.get_pool().unwrap(), admin }
    }

    /// Asks that a new key take the place of another; what it is refused with.
    pub async fn renew_key(&self, before: Fingerprint) -> Option<Refusal> {
        let said = renewal(&self.address, before).await;
        let mut request = self.pool.renew_key_request();
        request.get().set_key(&said.key);
        request.get().set_signature(&said.signature);
        let answer = request.send().promise.await.unwrap();
        let answer = answer.get().unwrap();
        answer.has_refused().then(|| wire::refusal::read(answer.get_refused().unwrap()).unwrap())
    }

    /// Submits a script to a worker, by a request of 16 such bytes.
    pub async fn submit(&self, request_byte: u8, worker: &str, script: &str) -> (u64, job::Client) {
        let mut request = self.pool.submit_request();
        request.get().set_request(&[request_byte; 16]);
        let mut spec = request.get().init_spec();
        spec.set_script(script.as_bytes());
        spec.set_where(format!("name={worker}"));
        let answer = request.send().promise.await.unwrap();
        let answer = answer.get().unwrap();
        (answer.get_job(), answer.get_handle().unwrap())
    }

    /// All that it can hold, with a job of its own that waits for ever.
    pub async fn holds(&self) -> Vec<Held> {
        let (_, job) = self.submit(0xff, "nowhere", "true").await;
        let mut request = job.follow_request();
        request.get().set_sink(capnp_rpc::new_client(Idle));
        request.get().init_what().set_live(true);
        let answer = request.send().promise.await.unwrap();
        let following = answer.get().unwrap().get_following().unwrap();
        let mut held = vec![
            ("ClientDoor", self.door.client.clone()),
            ("Job", job.client),
            ("Following", following.client),
        ];
        match &self.admin {
            None => held.push(("Pool", self.pool.client.clone())),
            // The same object as the pool that was given beside it.
            Some(admin) => held.push(("Admin", admin.client.clone())),
        }
        held
    }

    /// As a worker of the pool's own machine.
    pub async fn local_worker(&self, name: &str) -> registrar::Client {
        let mut request = self.admin.as_ref().unwrap().local_worker_request();
        request.get().set_name(name);
        request.get().set_given(true);
        let answer = request.send().promise.await.unwrap();
        answer.get().unwrap().get_registrar().unwrap()
    }
}

/// The door of a worker, and what is behind it.
pub async fn worker(cluster: &Cluster, name: &str) -> (Held, registrar::Client) {
    let (door, _): (worker_door::Client, _) = known(cluster, "--worker", name).await;
    let mut request = door.hello_request();
    wire::hello::write(&wire::hello::Hello::ours(), request.get().init_hello());
    let answer = request.send().promise.await.unwrap();
    let registrar = answer.get().unwrap().get_registrar().unwrap();
    (("WorkerDoor", door.client), registrar)
}

/// What a worker says of itself that runs nothing.
pub fn facts() -> Facts {
    Facts {
        boot_id: "another machine".into(),
        incarnation: Incarnation(1),
        dial: 1,
        slots: 1,
        labels: Labels::new(),
        memory_bytes: 0,
        uid: 1,
        trust: SubmitterTrust::Everybody,
        tenure: Tenure::Lasting,
        user: "nobody".into(),
        pid: 1,
    }
}

/// A registration, as long as its answer is kept.
pub struct Member {
    pub registrar: registrar::Client,
    answer: capnp::capability::Response<registrar::register_results::Owned>,
}

impl Member {
    /// Joins, and says what it carries.
    pub async fn register(registrar: registrar::Client, carried: &[Carried]) -> Self {
        let mut request = registrar.register_request();
        request.get().set_worker(capnp_rpc::new_client(Idle));
        wire::worker::write_facts(&facts(), request.get().init_facts());
        let count = u32::try_from(carried.len()).unwrap();
        wire::worker::write_carried(carried, request.get().init_carried(count));
        let answer = request.send().promise.await.unwrap();
        assert!(!answer.get().unwrap().has_refused());
        Self { registrar, answer }
    }

    /// What it was told.
    pub fn told(&self) -> registered::Reader<'_> {
        self.answer.get().unwrap().get_registered().unwrap()
    }

    /// All that it holds beside its door.
    pub fn holds(&self) -> Vec<Held> {
        let told = self.told();
        vec![
            ("Registrar", self.registrar.client.clone()),
            ("Reports", told.get_reports().unwrap().client),
            ("Output", told.get_output().unwrap().client),
            ("Heartbeat", told.get_heartbeat().unwrap().client),
            ("Registration", told.get_registration().unwrap().client),
        ]
    }
}
