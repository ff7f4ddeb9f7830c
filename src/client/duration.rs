//! Durations as people type them: `90s`, `10m`, `1h 30m`, `30d`.

use std::time::Duration;

/// Reads a duration.
///
/// # Errors
/// With words for a person.
pub fn parse(text: &str) -> Result<Duration, String> {
    let no_time = |_| format!("\"{text}\" is no time; write 90s or 10m");
    let span: jiff::Span = text.parse().map_err(no_time)?;
    // Whatever a calendar says of the night when the clocks change.
    let signed = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(no_time)?;
    Duration::try_from(signed).map_err(|_| "a time cannot be negative".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_type_them() {
        assert_eq!(parse("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("1h 30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert!(parse("1 month").is_err());
        assert!(parse("soon").is_err() && parse("-1s").is_err() && parse("").is_err());
    }
}
