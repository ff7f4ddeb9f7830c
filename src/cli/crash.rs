//! What people read when the program itself has a fault: one sentence, and a file with the rest to send along.

use std::any::Any;
use std::backtrace::Backtrace;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::panic::{self, PanicHookInfo};
use std::path::{Path, PathBuf};

use crate::client::context;
use crate::client::error::Failure;
use crate::process::clock;

/// From here on a panic, of whatever thread, is told in the words of every other error.
pub(super) fn tell_people() {
    panic::set_hook(Box::new(tell));
}

fn tell(info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let text = format!(
        "{}\n{info}\nthread {}\n\n{}\n",
        crate::build(),
        thread.name().unwrap_or("without a name"),
        Backtrace::force_capture(),
    );
    let mut failure = Failure::new("internal", format!("internal error (please report): {}", words_of(info)));
    if let Some(path) = context::crash_directory().and_then(|directory| write(&directory, &text).ok()) {
        failure.refusal = failure.refusal.fact("report", path.display());
    }
    crate::say::sentence(format_args!("{}", failure.text()));
}

/// The first line of what a panic says.
fn words_of(info: &PanicHookInfo<'_>) -> String {
    let payload: &dyn Any = info.payload();
    let words = payload.downcast_ref::<&str>().copied();
    let words = words.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    words.and_then(|words| words.lines().next()).unwrap_or("no words").to_owned()
}

/// Writes a report under a name of its own, for this user alone.
fn write(directory: &Path, text: &str) -> io::Result<PathBuf> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let path = directory.join(format!("crash-{}-{}.txt", clock::wall().0, std::process::id()));
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?.write_all(text.as_bytes())?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_this_users_alone() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();

        let path = write(&directory.path().join("clusterctl"), "what happened").unwrap();

        assert_eq!(std::fs::read_to_string(&path).unwrap(), "what happened");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
