//! `audit`: who did what, and who was let in or not.

use std::time::Duration;

use clap::Args;

use super::super::connection::Session;
use super::super::error::Failure;
use super::super::{Format, Manner, duration, render};
use crate::core::audit::AuditEntry;
use crate::core::time::WallTime;
use crate::process::clock;
use crate::say::{say, tell};
use crate::wire;

/// Shown if nobody says since when.
const SHOWN: u64 = 100;
/// With `-f`, whether there is more is asked so often.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// `audit`.
#[derive(Args, Clone, Debug, Default)]
pub struct AuditArgs {
    /// Go on with what comes
    #[arg(short, long)]
    pub follow: bool,
    /// Only what happened within this time, as 24h; the last 100 entries if not given
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub since: Option<Duration>,
    /// Check that no entry was changed, added or taken away since it was written
    #[arg(long, conflicts_with_all = ["follow", "since"])]
    pub verify: bool,
}

/// An entry with its place in the chain.
struct Row {
    number: u64,
    before: [u8; 32],
    body: Vec<u8>,
    chain: [u8; 32],
}

/// Shows the audit trail, or verifies it.
///
/// # Errors
/// When it is not the caller's own pool, or the trail was changed.
pub async fn audit(session: &mut Session, args: &AuditArgs, manner: Manner) -> Result<u8, Failure> {
    if args.verify {
        return verify(session, manner).await;
    }
    let since = args.since.map(|ago| {
        WallTime(clock::wall().0.saturating_sub(i64::try_from(ago.as_millis()).unwrap_or(i64::MAX)))
    });
    let (_, newest) = page(session, u64::MAX).await?;
    let mut after = if since.is_some() { 0 } else { newest.saturating_sub(SHOWN) };
    let mut all = Vec::new();
    loop {
        let (rows, _) = page(session, after).await?;
        for row in &rows {
            after = row.number;
            let entry = wire::audit::decode(&row.body)?;
            if since.is_some_and(|since| entry.at < since) {
                continue;
            }
            match manner.format {
                Format::Human => tell!("{}", line(&entry)),
                Format::Ndjson => tell!("{}", json(row.number, &entry)),
                Format::Json => all.push(json(row.number, &entry)),
            }
        }
        match (rows.is_empty(), args.follow) {
            (false, _) => {}
            (true, true) => tokio::time::sleep(ASK_AGAIN).await,
            (true, false) => break,
        }
    }
    if manner.format == Format::Json {
        tell!("{}", serde_json::Value::from(all));
    }
    Ok(0)
}

/// Walks the chain from its first row that is kept.
async fn verify(session: &mut Session, manner: Manner) -> Result<u8, Failure> {
    let (mut count, mut first) = (0_u64, 0);
    let mut last: Option<Row> = None;
    loop {
        let after = last.as_ref().map_or(0, |row| row.number);
        let (rows, _) = page(session, after).await?;
        if rows.is_empty() {
            break;
        }
        for row in rows {
            let follows =
                last.as_ref().is_none_or(|last| (last.number + 1, last.chain) == (row.number, row.before));
            if !follows || wire::audit::link(&row.before, row.number, &row.body) != row.chain {
                let text = format!("the audit trail was changed at entry {}", row.number);
                return Err(Failure::new("audit-broken", text).fact("good up to", row.number - 1));
            }
            first = if count == 0 { row.number } else { first };
            count += 1;
            last = Some(row);
        }
    }
    let head = last.map_or_else(String::new, |row| data_encoding::HEXLOWER.encode(&row.chain));
    match manner.format {
        Format::Human => {
            let entries = if count == 1 { "entry" } else { "entries" };
            tell!("{count} {entries} in order, from number {first} on");
            say!("  head {head}");
        }
        Format::Json | Format::Ndjson => {
            tell!("{}", serde_json::json!({ "v": 1, "entries": count, "first": first, "head": head }));
        }
    }
    Ok(0)
}

async fn page(session: &mut Session, after: u64) -> Result<(Vec<Row>, u64), Failure> {
    let admin = session.admin().await?;
    let mut request = admin.audit_request();
    request.get().set_after(after);
    request.get().set_limit(1000);
    let answer = request.send().promise.await?;
    let answer = answer.get()?;
    let mut rows = Vec::new();
    for row in answer.get_rows()? {
        rows.push(Row {
            number: row.get_number(),
            before: wire::text::read_array(row.get_before(), "a link")?,
            body: row.get_body()?.to_vec(),
            chain: wire::text::read_array(row.get_chain(), "a link")?,
        });
    }
    Ok((rows, answer.get_newest()))
}

/// An entry as people read it.
fn line(entry: &AuditEntry) -> String {
    let who = if entry.who.is_empty() { "-" } else { &entry.who };
    let words = [entry.what.as_str(), &entry.about, &entry.detail];
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    let times = if entry.count > 1 { format!(" ×{}", entry.count) } else { String::new() };
    let line =
        format!("{}  {who}  {}  {}{times}", render::rfc3339(entry.at), entry.source, words.join(" · "));
    render::plain(line.as_bytes(), line.len())
}

fn json(number: u64, entry: &AuditEntry) -> serde_json::Value {
    serde_json::json!({
        "v": 1, "number": number, "at": render::rfc3339(entry.at), "what": entry.what.as_str(), "who": entry.who,
        "source": entry.source, "about": entry.about, "detail": entry.detail, "count": entry.count,
    })
}
