//! Durations as people type them: `90s`, `10m`, `1h 30m`.

use std::time::Duration;

/// Reads a duration.
///
/// # Errors
/// With words for a person.
pub fn parse(text: &str) -> Result<Duration, String> {
    let signed: jiff::SignedDuration =
        text.parse().map_err(|_| format!("\"{text}\" is no time; write 90s or 10m"))?;
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
        assert!(parse("soon").is_err() && parse("-1s").is_err() && parse("").is_err());
    }
}
