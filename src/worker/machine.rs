//! The machine that an agent works on: its executor, its files, its keys, and the way to its pool.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use super::identity::{Home, Identity};
use super::options::{JoinOptions, PoolAddress};
use super::registration::{self, RegisterFailure, Registrar};
use super::room;
use super::site::{Met, Site};
use crate::core::attempt::FromExecutor;
use crate::core::id::Incarnation;
use crate::core::limits;
use crate::core::membership::Facts;
use crate::core::time::Timestamp;
use crate::net::dial;
use crate::process::executor::ExecutorOptions;
use crate::process::executor_client::connect_or_start;
use crate::process::{JournalOf, facts, forget_journals, read_journals};
use crate::store::place;

/// An executor that says no welcome so often speaks another language, or does not live.
const MEETINGS_MAX: u32 = 10;
const MEET_AGAIN: Duration = Duration::from_millis(50);

/// A machine, and a worker's place on it.
pub(super) struct Machine {
    pub(super) options: Rc<JoinOptions>,
    pub(super) identity: Rc<Identity>,
    pub(super) home: Home,
}

impl Machine {
    fn executor_directory(&self) -> PathBuf {
        self.home.directory().join("executor")
    }
}

impl Site for Machine {
    async fn meet(&self) -> anyhow::Result<Met> {
        let executor = ExecutorOptions {
            directory: self.executor_directory(),
            work_directory: self.options.work_directory.clone(),
            run_as: self.options.run_as.clone(),
            timing: self.options.timing,
        };
        for _ in 0..MEETINGS_MAX {
            if let Some(mut line) = connect_or_start(&executor).await?
                && let Some(FromExecutor::Welcome { incarnation, held, .. }) = line.recv().await
            {
                return Ok(Met { line, incarnation, held });
            }
            // Somebody may be ending them; one that is being killed may still let us in.
            tokio::time::sleep(MEET_AGAIN).await;
        }
        anyhow::bail!("the executor speaks another protocol, or ends before it speaks")
    }

    fn journals(&self) -> Vec<JournalOf> {
        read_journals(&self.executor_directory()).unwrap_or_default()
    }

    fn forget_journals(&self, journals: &[JournalOf]) {
        if let Err(error) = forget_journals(&self.executor_directory(), journals) {
            tracing::warn!(%error, "cannot remove an old journal");
        }
    }

    fn boot_id(&self) -> String {
        facts::boot_id()
    }

    fn facts(&self, incarnation: Incarnation, began: Timestamp) -> Facts {
        let options = &self.options;
        let mut labels = facts::labels();
        labels.extend(options.labels.clone());
        let (user, uid) = options.jobs_user();
        Facts {
            boot_id: facts::boot_id(),
            incarnation,
            dial: began.0,
            slots: options.slots.min(limits::SLOTS_MAX),
            labels,
            memory_bytes: facts::memory_bytes(),
            uid,
            trust: options.trust,
            user,
            pid: std::process::id(),
            tenure: options.tenure,
        }
    }

    async fn dial(self: Rc<Self>) -> Result<Registrar, RegisterFailure> {
        match &self.options.pool {
            PoolAddress::Local(state) => {
                let connection = dial::dial_local(&place::socket_path(state)).await?;
                let Identity { name, choice, .. } = &*self.identity;
                registration::by_socket(connection, &self.options, name, *choice).await
            }
            PoolAddress::Network(address) => {
                registration::by_key(&self.options, &self.identity, address).await
            }
        }
    }

    fn full(&self, before: Option<&str>) -> Option<String> {
        room::look(&[self.executor_directory(), self.options.work_directory.clone()], before)
    }

    fn random(&self) -> u32 {
        super::random()
    }

    fn forget_identity(&self) {
        if let Err(error) = self.home.forget_identity() {
            tracing::warn!(%error, "cannot forget the identity that the pool does not know");
        }
    }
}
