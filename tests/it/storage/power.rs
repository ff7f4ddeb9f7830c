//! Power cuts: everything that was not synced is gone. Needs root, to mount an image of ext4, which can be told to lose it.
//!
//! `CLUSTERCTL_POWER_CUTS=N` makes N of them, `CLUSTERCTL_SEED=S` chooses the moments.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::lab::Lab;
use super::revived::Fault;
use super::{Dice, figures, number};
use crate::cluster::{Site, skipped, wait_until};

/// Of which the file has as many as were written.
const IMAGE_BYTES: u64 = 1 << 30;

/// An ext4 of its own, for as long as this lives.
struct Disk {
    image: PathBuf,
    at: PathBuf,
    /// Mounted over itself.
    around: PathBuf,
}

impl Disk {
    /// None, said loudly, where it cannot be made.
    fn mount(site: &Path, at: &Path) -> Option<Self> {
        let around = at.parent().unwrap().to_owned();
        let disk = Self { image: site.join("disk"), at: at.to_owned(), around };
        std::fs::File::create(&disk.image).unwrap().set_len(IMAGE_BYTES).unwrap();
        std::fs::create_dir_all(at).unwrap();
        // Whoever makes a mount namespace meanwhile, as `ip netns exec` does, would keep a disk for itself that is
        // unmounted here, and what is mounted next would be that again, with its power cut.
        mount([OsStr::new("--bind"), disk.around.as_ref(), disk.around.as_ref()]);
        mount([OsStr::new("--make-shared"), disk.around.as_ref()]);
        let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk.image).output();
        let is_made = made.is_ok_and(|made| made.status.success());
        if !nix::unistd::geteuid().is_root() || !is_made || !disk.is_mounted() {
            skipped("power cuts (needs root, mkfs.ext4 of Debian's e2fsprogs, and loop devices)");
            return None;
        }
        Some(disk)
    }

    fn is_mounted(&self) -> bool {
        // Of itself ext4 commits every five seconds, and a round may take longer: here nobody does it but who asks.
        mount([OsStr::new("-o"), OsStr::new("loop,commit=1000"), self.image.as_ref(), self.at.as_ref()])
    }

    /// What was not synced never gets to the disk.
    fn cut(&self) {
        assert!(mount([OsStr::new("-o"), OsStr::new("remount,abort"), self.at.as_ref()]), "its power is cut");
    }

    /// As when the machine comes up again.
    fn mount_again(&self) {
        let unmount = || Command::new("umount").arg(&self.at).stderr(Stdio::null()).status().unwrap();
        // A client may just look for its pool there.
        wait_until("the disk is unmounted", || unmount().success());
        assert!(self.is_mounted(), "what is left of the disk can be mounted");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the last process that uses it may still be on its way out.
        for mounted in [&self.at, &self.around] {
            let _ = Command::new("umount").arg("-l").arg(mounted).status();
        }
    }
}

/// Whether it could be mounted.
fn mount<const N: usize>(args: [&OsStr; N]) -> bool {
    let mut mount = Command::new("mount");
    mount.args(args).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

#[test]
fn a_pool_whose_power_is_cut_takes_back_nothing_that_it_said() {
    let seed = number("CLUSTERCTL_SEED").unwrap_or(1);
    let cuts = number("CLUSTERCTL_POWER_CUTS").unwrap_or(4);
    let mut dice = Dice(seed);
    let site = Site::new();
    let Some(disk) = Disk::mount(site.path(), &site.home("operator").state()) else { return };
    let Some(mut lab) = Lab::at(site, Arc::new(move || disk.mount_again())) else { return };
    let (_, usual) = lab.round(None);
    let mut hit = 0;

    for _ in 0..cuts {
        let (kind, count) = if dice.below(2) == 0 { ("sync", usual.syncs) } else { ("write", usual.writes) };
        let deed = if dice.below(2) == 0 { "cut-before" } else { "cut-after" };
        let fault = Fault { at: format!("{kind} {}", 1 + dice.below(count)), deed };
        let (end, counts) = lab.round(Some(&fault));
        hit += counts.done;
        assert!(counts.done == 0 || end.is_some_and(|end| end.code.is_none()), "{fault:?} {counts:?}");
    }

    assert!(hit * 2 > cuts, "{hit} of {cuts} rounds came to their cut");
    let acknowledged = lab.promised.acknowledged;
    assert!(acknowledged > 5 * cuts, "{acknowledged} acknowledged: the pool took nothing");
    figures(&format!(
        "power cuts: seed {seed}, {cuts} rounds, {hit} cut, {acknowledged} acknowledged; every check held"
    ));
}

#[test]
fn a_disk_that_lies_about_its_syncs_makes_the_pool_take_back_what_it_said_and_that_is_found() {
    let site = Site::new();
    let Some(disk) = Disk::mount(site.path(), &site.home("operator").state()) else { return };
    let cut = move || {
        disk.cut();
        disk.mount_again();
    };
    let Some(mut lab) = Lab::at(site, Arc::new(cut)) else { return };
    // The same cut, when it has said all: by a disk that does what it says nothing is lost.
    lab.round(None);

    let lies = Fault { at: "sync 1".to_owned(), deed: "lie" };
    let round = std::panic::AssertUnwindSafe(|| lab.round(Some(&lies)));
    let verdict = std::panic::catch_unwind(round).expect_err("nothing was found");

    let verdict = verdict.downcast::<String>().unwrap();
    assert!(verdict.contains(" was made and is not there"), "{verdict}");
}
