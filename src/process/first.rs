//! What the first process of a pid namespace owes the others, as in a container: it reaps whatever loses its parent.
//! See pid_namespaces(7). When it ends, the kernel ends all the others.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

use super::tree;

/// Whether this process is the first of its pid namespace.
pub fn is_first() -> bool {
    std::process::id() == 1
}

/// Reaps orphans from now on, until it is dropped. Nobody else in this process may wait for a child meanwhile.
///
/// # Errors
/// When the signal cannot be taken.
pub async fn reap_orphans() -> io::Result<std::convert::Infallible> {
    let mut ended = signal(SignalKind::child())?;
    loop {
        tree::reap();
        // It never ends as long as there is a runtime.
        ended.recv().await;
    }
}
