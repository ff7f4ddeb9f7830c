//! Where a pool is, as `HOST:PORT`. Nothing is looked up here: the host may be a name that nobody knows.

/// The port of a pool.
pub const PORT: u16 = 7700;

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAddress {
    /// It has no host, or one that can be none.
    #[error("\"{0}\" is no host; write HOST:PORT, as head:7700")]
    Host(String),
    /// Its colons are not told from the one before the port.
    #[error("an IPv6 address stands in brackets, as [::1]:7700")]
    Brackets,
    /// What is behind the colon is no port.
    #[error("\"{0}\" is no port; ports are {1} to 65535")]
    Port(String, u16),
    /// There is none where there has to be one.
    #[error("there is no port; write HOST:PORT, as 0.0.0.0:7700")]
    NoPort,
}

/// Where one dials: without a port, at the usual one.
///
/// # Errors
/// When it is no address.
pub fn dialled(text: &str) -> Result<String, BadAddress> {
    match split(text)? {
        (host, None) => Ok(format!("{host}:{PORT}")),
        (_, Some(port)) => check_port(port, 1).map(|()| text.to_owned()),
    }
}

/// Where one listens: port 0 is one that is free.
///
/// # Errors
/// When it is no address, or has no port.
pub fn listened(text: &str) -> Result<String, BadAddress> {
    let (_, port) = split(text)?;
    check_port(port.ok_or(BadAddress::NoPort)?, 0).map(|()| text.to_owned())
}

fn check_port(port: &str, least: u16) -> Result<(), BadAddress> {
    let is_port =
        port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port >= least);
    if is_port { Ok(()) } else { Err(BadAddress::Port(port.to_owned(), least)) }
}

/// The host, and what stands for its port.
fn split(text: &str) -> Result<(&str, Option<&str>), BadAddress> {
    let bad = || BadAddress::Host(text.to_owned());
    if text.starts_with('[') {
        let end = text.find(']').ok_or_else(bad)? + 1;
        let (host, rest) = text.split_at(end);
        host[1..end - 1].parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
        return match rest.strip_prefix(':') {
            None if rest.is_empty() => Ok((host, None)),
            None => Err(bad()),
            Some(port) => Ok((host, Some(port))),
        };
    }
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    if port.is_some_and(|port| port.starts_with("//")) {
        return Err(bad());
    }
    if port.is_some_and(|port| port.contains(':')) {
        return Err(BadAddress::Brackets);
    }
    let is_host =
        !host.is_empty() && !host.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control());
    if is_host { Ok((host, port)) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_port_gets_the_usual_one() {
        assert_eq!(dialled("head").unwrap(), "head:7700");
        assert_eq!(dialled("10.0.0.1:7711").unwrap(), "10.0.0.1:7711");
        assert_eq!(dialled("[::1]").unwrap(), "[::1]:7700");
        assert_eq!(dialled("[fe80::1]:9").unwrap(), "[fe80::1]:9");
    }

    #[test]
    fn what_can_never_be_reached_is_no_address() {
        for (text, words) in [
            ("head:65536", "\"65536\" is no port; ports are 1 to 65535"),
            ("head:0", "\"0\" is no port; ports are 1 to 65535"),
            ("head:+7", "\"+7\" is no port; ports are 1 to 65535"),
            ("head:", "\"\" is no port; ports are 1 to 65535"),
            ("head:http", "\"http\" is no port; ports are 1 to 65535"),
            ("", "\"\" is no host; write HOST:PORT, as head:7700"),
            (":7700", "\":7700\" is no host; write HOST:PORT, as head:7700"),
            ("[head]:7700", "\"[head]:7700\" is no host; write HOST:PORT, as head:7700"),
            ("https://head:7700", "\"https://head:7700\" is no host; write HOST:PORT, as head:7700"),
            ("::1", "an IPv6 address stands in brackets, as [::1]:7700"),
        ] {
            assert_eq!(dialled(text).unwrap_err().to_string(), words, "{text}");
        }
    }

    #[test]
    fn where_one_listens_has_a_port_and_it_may_be_any_that_is_free() {
        assert_eq!(listened("127.0.0.1:0").unwrap(), "127.0.0.1:0");
        assert_eq!(listened("bogus"), Err(BadAddress::NoPort));
        assert_eq!(
            listened("0.0.0.0:65536").unwrap_err().to_string(),
            "\"65536\" is no port; ports are 0 to 65535"
        );
    }
}
