//! What the schema says of a registration, by a worker that is nothing but its connection.

use clusterctl::net::{connection, dial};
use clusterctl::process::clock;
use clusterctl::schema::pool_capnp::client_door;
use clusterctl::schema::worker_capnp::registration;
use clusterctl::store::place;
use clusterctl::wire;

use crate::cluster::{Cluster, DEADLINE};
use crate::roles::{Idle, facts};

/// Joins the pool over its own machine's socket.
async fn register(door: client_door::Client, name: &str) -> registration::Client {
    let mut request = door.hello_request();
    wire::hello::write(&wire::hello::Hello::ours(), request.get().init_hello());
    let mut request = request.send().pipeline.get_admin().local_worker_request();
    request.get().set_name(name);
    request.get().set_given(true);
    let mut request = request.send().pipeline.get_registrar().register_request();
    request.get().set_worker(capnp_rpc::new_client(Idle));
    wire::worker::write_facts(&facts(), request.get().init_facts());
    let answer = request.send().promise.await.unwrap();
    answer.get().unwrap().get_registered().unwrap().get_registration().unwrap()
}

#[test]
fn dropping_a_registration_ends_it_with_its_connection() {
    let cluster = Cluster::start();
    let socket = place::socket_path(&cluster.operator.state().join("lab"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let (door, link) = connection::dialled(dial::dial_local(&socket).await.unwrap(), clock::now);
        let link = tokio::task::spawn_local(link.run(std::future::pending()));
        let registration = register(door, "w1").await;
        cluster.wait_for_worker("w1", "ready");
        assert!(!link.is_finished());

        drop(registration);

        let ended = tokio::time::timeout(DEADLINE, link).await;
        assert!(ended.is_ok(), "the pool keeps the connection");
    });
    cluster.wait_for_worker("w1", "away");
}
