//! `pool status` and `pool stop`.

use std::time::Duration;

use super::super::connection::{Session, Target};
use super::super::error::Failure;
use super::super::{Format, Manner, private_pool, render};
use super::tell_done;
use crate::core::space::{Space, low};
use crate::core::view::PoolStatus;
use crate::net::dial;
use crate::process::clock;
use crate::say::tell;
use crate::schema::pool_capnp::StopReason;
use crate::store::lock::StateLock;
use crate::store::place;
use crate::wire;

/// A pool that was asked to end has done so by then.
const GONE_WITHIN: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Which pool this is, where its state lies, since when.
///
/// # Errors
/// When it does not run.
pub async fn status(session: &mut Session, manner: Manner) -> Result<u8, Failure> {
    running(session).await?;
    let status = ask(session).await?;
    match manner.format {
        Format::Human => crate::say::result(format_args!("{}", text(&status))),
        Format::Json | Format::Ndjson => tell!(
            "{}",
            serde_json::json!({
                "v": 1, "name": status.name, "pid": status.pid, "state": status.state, "listening": status.listening,
                "since": render::rfc3339(status.since), "workers": status.workers, "silent": status.silent,
                "slots": status.slots, "used": status.used, "queued": status.queued, "running": status.running,
                "unknown": status.unknown, "build": status.build, "output_bytes": status.output_bytes,
                "output_limit_bytes": status.output_limit_bytes, "disk_low": disk_low(status.space),
                "key": status.fingerprint.to_string(),
            })
        ),
    }
    Ok(0)
}

/// The pool as a whole.
///
/// # Errors
/// When it cannot be asked.
pub async fn ask(session: &mut Session) -> Result<PoolStatus, Failure> {
    let pool = session.pool().await?;
    let answer = pool.status_request().send().promise.await?;
    Ok(wire::status::read(answer.get()?.get_status()?)?)
}

/// Ends the pool; jobs at workers go on.
///
/// # Errors
/// When it does not run.
pub async fn stop(session: &mut Session, manner: Manner) -> Result<u8, Failure> {
    running(session).await?;
    let name = ask(session).await?.name;
    let admin = session.admin().await?;
    let mut request = admin.stop_request();
    request.get().set_why(StopReason::Asked);
    let answer = request.send().promise.await?;
    let (running, queued) = (answer.get()?.get_running(), answer.get()?.get_queued());
    wait_until_gone(session).await;
    let mut sentence = format!("pool \"{name}\" stopped");
    sentence += &match running {
        0 => String::new(),
        1 => "\n  1 task goes on at its worker".to_owned(),
        n => format!("\n  {n} tasks go on at their workers"),
    };
    sentence += &match queued {
        0 => String::new(),
        1 => "\n  1 task waits for the pool to come back".to_owned(),
        n => format!("\n  {n} tasks wait for the pool to come back"),
    };
    let document = serde_json::json!({ "v": 1, "stopped": name, "running": running, "queued": queued });
    tell_done(manner, &sentence, &name, document);
    Ok(0)
}

/// It says goodbye within 5 s, and lets go of its state; we wait for that, so that the next command finds it gone.
async fn wait_until_gone(session: &Session) {
    let state = match session.target() {
        Target::Private => private_pool::state_directory(session.root()),
        Target::Local(_, state) => state.clone(),
        Target::Remote(..) => return,
    };
    let deadline = tokio::time::Instant::now() + GONE_WITHIN;
    while StateLock::is_held(&state) && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Neither question starts a private pool that is not running.
async fn running(session: &Session) -> Result<(), Failure> {
    if *session.target() != Target::Private {
        return Ok(());
    }
    let state = private_pool::state_directory(session.root());
    match dial::dial_local(&place::socket_path(&state)).await {
        Ok(_) => Ok(()),
        Err(_) => Err(Failure::new("unreachable", "the private pool is not running")
            .fact("state", state.display())
            .hint("clusterctl")),
    }
}

/// What is free and what has to be, while that is too little.
fn disk_low(space: Option<Space>) -> serde_json::Value {
    match space {
        None | Some(Space::Enough) => serde_json::Value::Null,
        Some(Space::Low { free_bytes, needed_bytes }) => {
            serde_json::json!({ "free_bytes": free_bytes, "needed_bytes": needed_bytes })
        }
    }
}

fn text(status: &PoolStatus) -> String {
    let up = render::duration(render::between(status.since, clock::wall()));
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    let silent = if status.silent > 0 { format!(", {} silent", status.silent) } else { String::new() };
    let disk = match status.space {
        None | Some(Space::Enough) => String::new(),
        Some(Space::Low { free_bytes, needed_bytes }) => format!(
            "  disk      nearly full, so new jobs are refused: {}\n            make room where its state lies: it takes jobs again by itself\n",
            low(free_bytes, needed_bytes)
        ),
    };
    format!(
        "pool \"{}\": up {up}, pid {}\n  state     {}\n  listening {}\n  key       {}\n  workers   {}{silent}, {} of {} slots in use\n  tasks     {} queued, {} running, {} unknown\n  output    {} of {}\n{disk}  program   {}\n",
        status.name,
        status.pid,
        status.state,
        status.listening.as_deref().unwrap_or("on its socket only"),
        status.fingerprint,
        status.workers,
        status.used,
        status.slots,
        status.queued,
        status.running,
        status.unknown,
        mib(status.output_bytes),
        mib(status.output_limit_bytes),
        status.build,
    )
}
