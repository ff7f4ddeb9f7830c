//! Ids as people type them: `42`, `42.7`, `%42`, `last`, `%%`, `%-`, ranges `5-8` and lists of them.

use crate::core::id::JobId;

use super::error::Failure;

/// A job, or some of an array's tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    /// The job.
    pub job: JobId,
    /// Which tasks; none: all.
    pub tasks: Vec<(u32, u32)>,
}

impl std::fmt::Display for Selected {
    /// `42`, `42.7`, `42.1-5`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.job)?;
        for (first, last) in &self.tasks {
            if first == last { write!(f, ".{first}")? } else { write!(f, ".{first}-{last}")? }
        }
        Ok(())
    }
}

/// What `last` and `%-` mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recent {
    /// The newest job.
    pub last: Option<JobId>,
    /// The one before.
    pub before: Option<JobId>,
}

/// Reads one word of ids.
///
/// # Errors
/// When it is none.
pub fn parse(text: &str, recent: Recent) -> Result<Vec<Selected>, Failure> {
    let bad = || Failure::new("usage", format!("\"{text}\" is no job id")).hint("42, 42.7, last, 1-5,8");
    let missing = || Failure::new("no-such-job", "there is no such job yet");
    let mut selected = Vec::new();
    for part in text.split(',') {
        let whole = |job| Selected { job, tasks: Vec::new() };
        match part {
            "last" | "%%" => selected.push(whole(recent.last.ok_or_else(missing)?)),
            "%-" => selected.push(whole(recent.before.ok_or_else(missing)?)),
            _ => {
                let part = part.strip_prefix('%').unwrap_or(part);
                if let Some((job, task)) = part.split_once('.') {
                    let job = if job == "last" { recent.last } else { job.parse().ok().map(JobId) };
                    let (first, last) = task.split_once('-').unwrap_or((task, task));
                    let range = (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
                    selected.push(Selected { job: job.ok_or_else(bad)?, tasks: vec![range] });
                } else if let Some((first, last)) = part.split_once('-') {
                    let (first, last): (u64, u64) =
                        (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
                    if first > last || last - first > 10_000 {
                        return Err(bad());
                    }
                    selected.extend((first..=last).map(|id| whole(JobId(id))));
                } else {
                    selected.push(whole(JobId(part.parse().map_err(|_| bad())?)));
                }
            }
        }
    }
    Ok(selected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_name_jobs_and_tasks() {
        let recent = Recent { last: Some(JobId(9)), before: Some(JobId(8)) };
        let ids = |text| {
            parse(text, recent)
                .map(|all| all.iter().map(|one| (one.job.0, one.tasks.clone())).collect::<Vec<_>>())
        };

        assert_eq!(ids("42").unwrap(), [(42, vec![])]);
        assert_eq!(ids("42.7").unwrap(), [(42, vec![(7, 7)])]);
        assert_eq!(
            ids("1-3,last,%-,%5").unwrap().iter().map(|one| one.0).collect::<Vec<_>>(),
            [1, 2, 3, 9, 8, 5]
        );
        assert!(ids("x").is_err() && ids("3-1").is_err() && ids("").is_err());
    }
}
