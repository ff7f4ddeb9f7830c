//! How jobs, workers and times look in a terminal. Text from elsewhere never brings control characters with it.

use std::time::Duration;

use crate::core::job::JobSpec;
use crate::core::outcome::Outcome;
use crate::core::refusal::Refusal;
use crate::core::time::WallTime;
use crate::core::timing::Timing;
use crate::core::view::{JobInfo, TaskState, WorkerInfo, WorkerState};
use crate::say::say;

/// A wait for a worker that is worth a word.
const QUEUED_NOTICEABLE: Duration = Duration::from_millis(500);
/// Script text in a table, in characters.
const SCRIPT_SHOWN: usize = 60;

/// So many of something: `1 worker`, `3 workers`.
pub fn some(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// A duration as people read it: `0.3s`, `41.3s`, `2m05s`, `3h07m`, `2d4h`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..100 => format!("{:.1}s", duration.as_secs_f64()),
        100..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A moment as RFC 3339 in UTC.
pub fn rfc3339(at: WallTime) -> String {
    jiff::Timestamp::from_millisecond(at.0).map(|at| at.to_string()).unwrap_or_default()
}

/// Text on one line, without anything that a terminal would obey.
pub fn plain(bytes: &[u8], characters_max: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut shown = String::new();
    for (n, c) in text.trim().chars().enumerate() {
        if n == characters_max {
            shown.push('…');
            break;
        }
        shown.push(match c {
            '\n' | '\t' | '\r' => ' ',
            c if c.is_control() => '?',
            c => c,
        });
    }
    shown
}

/// A line as it is, without anything that a terminal would obey.
pub fn plain_line(bytes: &[u8]) -> String {
    let harmless = |c: char| if c.is_control() && c != '\t' { '?' } else { c };
    String::from_utf8_lossy(bytes).chars().map(harmless).collect()
}

/// A job's name or the beginning of its script.
pub fn script(spec: &JobSpec) -> String {
    plain(&spec.script, SCRIPT_SHOWN)
}

/// How a task ended, in a word or two: `exit 0`, `killed by SIGKILL`.
pub fn outcome(outcome: &Outcome) -> String {
    match outcome {
        // A shell's way to say that a command of its own was killed.
        Outcome::Exited(code) if signal_of_exit(*code).is_some() => {
            format!("exit {code} ({})", signal_of_exit(*code).unwrap_or_default())
        }
        Outcome::Exited(code) => format!("exit {code}"),
        Outcome::Signaled(signal) => format!("killed by {}", signal_name(*signal)),
        Outcome::TimedOut => "timed out".to_owned(),
        Outcome::Cancelled(how) => format!("cancelled ({how})"),
        Outcome::Lost(reason) => format!("lost: {}", plain(reason.as_bytes(), 200)),
        Outcome::SpawnFailed(reason) => format!("could not be started: {}", plain(reason.as_bytes(), 200)),
        Outcome::Quarantined => "quarantined: its attempts took their workers down".to_owned(),
    }
}

/// The signal that an exit code above 128 stands for.
fn signal_of_exit(code: u8) -> Option<&'static str> {
    let number = i32::from(code.checked_sub(128)?);
    nix::sys::signal::Signal::try_from(number).ok().map(nix::sys::signal::Signal::as_str)
}

/// The word for an outcome in JSON.
pub fn outcome_word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Exited(_) => "exited",
        Outcome::Signaled(_) => "signaled",
        Outcome::TimedOut => "timed-out",
        Outcome::Cancelled(_) => "cancelled",
        Outcome::Lost(_) => "lost",
        Outcome::SpawnFailed(_) => "spawn-failed",
        Outcome::Quarantined => "quarantined",
    }
}

/// The exit code that stands for an outcome, as docker and the shell have it: a cancel by somebody else is a TERM.
pub fn exit_code(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Exited(code) => *code,
        Outcome::Signaled(signal) => 128_u8.saturating_add(*signal),
        Outcome::TimedOut => 124,
        Outcome::Cancelled(_) => 143,
        Outcome::Lost(_) | Outcome::SpawnFailed(_) | Outcome::Quarantined => 125,
    }
}

/// A signal's name.
pub fn signal_name(number: u8) -> String {
    nix::sys::signal::Signal::try_from(i32::from(number))
        .map_or_else(|_| format!("signal {number}"), |signal| signal.as_str().to_owned())
}

/// The exit code of a whole job: of a plain one its task's, of an array 0 or 1.
pub fn job_exit_code(info: &JobInfo) -> u8 {
    if info.spec.array.is_some() {
        return u8::from(info.counts.over() != info.counts.of(TaskState::Done));
    }
    let end = info.task.as_ref().and_then(|task| task.end.as_ref());
    match end {
        Some(end) => exit_code(&end.outcome),
        None => 143,
    }
}

/// The sentence about a plain job that did not end with an exit; `None` if it did.
pub fn sentence(info: &JobInfo) -> Option<String> {
    let id = info.id;
    let Some(task) = &info.task else { return None };
    let Some(end) = &task.end else { return Some(format!("{id} cancelled before it started")) };
    let place = task.worker.as_deref().map_or(String::new(), |worker| format!(" · {worker}"));
    let run = duration(end.usage.run);
    Some(match &end.outcome {
        Outcome::Exited(_) => return None,
        Outcome::Signaled(signal) => format!("{id} killed by {} · {run}{place}", signal_name(*signal)),
        Outcome::TimedOut => format!("{id} {}{place}", timed_out(info.spec.timeout, end.usage.run)),
        Outcome::Cancelled(how) if task.attempt == 0 => format!("{id} cancelled before it started ({how})"),
        Outcome::Cancelled(how) => format!("{id} cancelled ({how}) · {run}{place}"),
        other => format!("{id} {}{place}", outcome(other)),
    })
}

/// `timed out after 2s (SIGTERM, then gone in 0.1s)`
fn timed_out(limit: Option<Duration>, run: Duration) -> String {
    let Some(limit) = limit else { return format!("timed out after {}", duration(run)) };
    let over = run.saturating_sub(limit);
    let how = if over < Timing::default().term_grace { "then gone in" } else { "then SIGKILL after" };
    let limit = match limit.subsec_nanos() {
        0 if limit.as_secs() < 100 => format!("{}s", limit.as_secs()),
        _ => duration(limit),
    };
    format!("timed out after {limit} (SIGTERM, {how} {})", duration(over))
}

/// What is said of a plain job that has ended, however it did: `42 exit 1 · 3.2s · w1`.
pub fn footer(info: &JobInfo) -> String {
    if let Some(sentence) = sentence(info) {
        return sentence;
    }
    let Some(end) = info.task.as_ref().and_then(|task| task.end.as_ref()) else {
        return format!("{} {}", info.id, info.counts.state().as_str());
    };
    let queued = info.queued.filter(|queued| *queued >= QUEUED_NOTICEABLE);
    let queued = queued.map_or(String::new(), |queued| format!(" · queued {}", duration(queued)));
    let place = info.task.as_ref().and_then(|task| task.worker.as_deref());
    let place = place.map_or(String::new(), |worker| format!(" · {worker}"));
    format!("{} {} · {}{queued}{place}", info.id, outcome(&end.outcome), duration(end.usage.run))
}

/// The end of a plain job that nobody knows more of, as an error is told.
pub fn loss(info: &JobInfo) -> Option<Refusal> {
    let id = info.id;
    let Outcome::Lost(reason) = &info.task.as_ref()?.end.as_ref()?.outcome else { return None };
    let reason = plain(reason.as_bytes(), 400);
    let attempts = match info.task.as_ref().map_or(0, |task| task.attempt) {
        0 | 1 => String::new(),
        n => format!(" after {n} attempts"),
    };
    let refusal = Refusal::new("worker-lost", format!("job {id} lost: {reason}{attempts}"));
    Some(refusal.hint(format!("clusterctl retry {id}     clusterctl workers")))
}

/// A table without lines, as wide as it must be.
pub fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_content_arrangement(comfy_table::ContentArrangement::Disabled);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// Jobs as a table, oldest first.
pub fn jobs(jobs: &[JobInfo], now: WallTime) -> String {
    let row = |job: &JobInfo| {
        let state = job.counts.state();
        let end = job.task.as_ref().and_then(|task| task.end.as_ref());
        let state = match (&job.spec.array, end) {
            (None, Some(end)) if state == TaskState::Failed => format!("failed {}", short(&end.outcome)),
            _ => state.as_str().to_owned(),
        };
        let time = match (job.started, job.ended) {
            (Some(started), Some(ended)) => duration(between(started, ended)),
            (Some(started), None) => duration(between(started, now)),
            (None, _) => "-".to_owned(),
        };
        let worker = match (&job.spec.array, &job.task) {
            (None, Some(task)) => task.worker.clone().unwrap_or_else(|| "-".to_owned()),
            _ => "-".to_owned(),
        };
        let mut what = script(&job.spec);
        if job.spec.array.is_some() {
            what = format!("{what}  [{}/{}]", job.counts.of(TaskState::Done), job.counts.total());
        }
        let name = job.spec.name.as_ref().map_or("", |name| name.as_str());
        vec![job.id.to_string(), state, time, worker, name.to_owned(), what]
    };
    table(&["ID", "STATE", "TIME", "WORKER", "NAME", "SCRIPT"], jobs.iter().rev().map(row).collect())
}

fn short(outcome: &Outcome) -> String {
    match outcome {
        // A shell's way to say that a command of its own was killed.
        Outcome::Exited(code) if signal_of_exit(*code).is_some() => {
            format!("exit {code} ({})", signal_of_exit(*code).unwrap_or_default())
        }
        Outcome::Exited(code) => format!("exit {code}"),
        Outcome::Signaled(signal) => signal_name(*signal),
        other => outcome_word(other).to_owned(),
    }
}

/// From one moment to another; nothing if that is before.
pub fn between(from: WallTime, to: WallTime) -> Duration {
    Duration::from_millis(u64::try_from(to.0.saturating_sub(from.0)).unwrap_or(0))
}

/// Workers as a table.
pub fn workers(workers: &[WorkerInfo]) -> String {
    let row = |worker: &WorkerInfo| {
        let connected = !matches!(worker.state, WorkerState::Silent | WorkerState::Away);
        let hidden = ["name", "hostname", "cpus", "memory", "kernel"];
        let labels = worker.labels.iter().filter(|(key, _)| !hidden.contains(&key.as_str()));
        let labels: Vec<String> =
            labels.map(|(key, value)| plain(format!("{key}={value}").as_bytes(), 80)).collect();
        let or_dash = |text: String| if connected { text } else { "-".to_owned() };
        vec![
            worker.name.clone(),
            worker.state.as_str().to_owned(),
            or_dash(format!("{}/{}", worker.used, worker.slots)),
            or_dash(format!("{:.1}G", worker.memory_bytes as f64 / f64::from(1 << 30))),
            or_dash(labels.join(" ")),
            worker.seen.map_or("not since the pool started".to_owned(), |seen| {
                WallTime(0).ago(WallTime(i64::try_from(seen.as_millis()).unwrap_or(0)))
            }),
        ]
    };
    table(&["NAME", "STATE", "SLOTS", "MEM", "LABELS", "SEEN"], workers.iter().map(row).collect())
}

/// Text on standard error that stands back, where colour is wanted.
pub fn dim(text: &str) {
    let style = anstyle::Style::new().dimmed();
    say!("{style}{text}{style:#}");
}

/// A prompt with its pool standing out, and what is not as it should be in a warning colour.
pub fn styled_prompt(prompt: &str) -> String {
    let name = anstyle::Style::new().bold();
    let failed = anstyle::AnsiColor::Red.on_default();
    let offline = anstyle::AnsiColor::Yellow.on_default();
    let words = prompt.split_inclusive(' ').enumerate().map(|(n, word)| {
        let text = word.trim_end_matches([' ', '>']);
        let style = match text {
            _ if n == 0 => name,
            "!offline" => offline,
            _ if text.starts_with('[') => failed,
            _ => return word.to_owned(),
        };
        format!("{style}{text}{style:#}{}", &word[text.len()..])
    });
    words.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_styled_prompt_is_as_wide_as_the_plain_one() {
        for prompt in ["local> ", "lab !offline (2 running) [137]> ", "…> "] {
            let styled = styled_prompt(prompt);
            assert!(styled.contains('\u{1b}'));
            assert_eq!(anstream::adapter::strip_str(&styled).to_string(), prompt);
        }
    }

    #[test]
    fn a_worker_that_is_not_back_since_the_pool_started_is_told_to_be_so() {
        use crate::core::membership::{Sharing, Tenure};
        let back = WorkerInfo {
            name: "n1".into(),
            state: WorkerState::Ready,
            slots: 2,
            used: 0,
            labels: [("gpu".into(), "a100".into())].into(),
            memory_bytes: 3 << 30,
            seen: Some(Duration::from_secs(4)),
            tasks: Vec::new(),
            only_owner: None,
            sharing: Sharing::Apart,
            joined: WallTime(0),
            fingerprint: None,
            tenure: Tenure::Lasting,
        };
        let away = WorkerInfo { name: "n2".into(), state: WorkerState::Away, seen: None, ..back.clone() };

        insta::assert_snapshot!(workers(&[back, away]), @"
        NAME  STATE  SLOTS  MEM   LABELS    SEEN
        n1    ready  0/2    3.0G  gpu=a100  4s ago
        n2    away   -      -     -         not since the pool started
        ");
    }

    #[test]
    fn durations_read_as_people_say_them() {
        let seconds = |n| duration(Duration::from_secs_f64(n));

        assert_eq!(
            [seconds(0.04), seconds(41.3), seconds(120.0), seconds(11_220.0)],
            ["0.0s", "41.3s", "2m00s", "3h07m"]
        );
    }

    #[test]
    fn control_characters_never_reach_a_terminal() {
        assert_eq!(plain(b"a\x1b[31mb\nc", 60), "a?[31mb c");
    }

    #[test]
    fn exit_codes_follow_docker_and_the_shell() {
        assert_eq!(exit_code(&Outcome::Signaled(9)), 137);
        assert_eq!(exit_code(&Outcome::TimedOut), 124);
        assert_eq!(exit_code(&Outcome::Cancelled(crate::core::outcome::Cancel::Interrupt)), 143);
        assert_eq!(exit_code(&Outcome::Lost(String::new())), 125);
    }
}
