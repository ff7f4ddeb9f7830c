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
    advertised(text).map(|text| with_port(&text, PORT))
}

/// Where others are told to dial: as it is written, with a port or without.
///
/// # Errors
/// When it is no address.
pub fn advertised(text: &str) -> Result<String, BadAddress> {
    let (_, port) = split(text)?;
    port.map_or(Ok(()), |port| check_port(port, 1)).map(|()| text.to_owned())
}

/// Where one listens: port 0 is one that is free. What is before the last colon may be an IPv6 address as it is: there
/// has to be a port, so it is told from it.
///
/// # Errors
/// When it is no address, or has no port.
pub fn listened(text: &str) -> Result<String, BadAddress> {
    let address = match text.rsplit_once(':') {
        Some((host, port)) if is_ipv6(host) => format!("[{host}]:{port}"),
        _ => text.to_owned(),
    };
    let (_, port) = split(&address)?;
    check_port(port.ok_or(BadAddress::NoPort)?, 0).map(|()| address)
}

/// A host and its port: an IPv6 address stands in brackets.
pub fn joined(host: &str, port: u16) -> String {
    if is_ipv6(host) { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// An address with its own port, else with this one.
pub fn with_port(address: &str, port: u16) -> String {
    if self::port(address).is_some() { address.to_owned() } else { joined(address, port) }
}

/// The host of an address, as it is written there; of what is none, all of it.
pub fn host(address: &str) -> &str {
    split(address).map_or(address, |(host, _)| host)
}

/// The port of an address, if it has one.
pub fn port(address: &str) -> Option<&str> {
    split(address).ok()?.1
}

/// An IPv6 address without brackets; behind it may be the number of the interface that it is reached by.
fn is_ipv6(text: &str) -> bool {
    let (ip, scope) = text.split_once('%').map_or((text, None), |(ip, scope)| (ip, Some(scope)));
    ip.parse::<std::net::Ipv6Addr>().is_ok() && scope.is_none_or(|scope| scope.parse::<u32>().is_ok())
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
        if !is_ipv6(&host[1..end - 1]) {
            return Err(bad());
        }
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
    fn an_interface_may_be_named_by_its_number() {
        assert_eq!(dialled("[fe80::1%2]:7700").unwrap(), "[fe80::1%2]:7700");
        assert!("[fe80::1%2]:7700".parse::<std::net::SocketAddr>().is_ok());
        assert!(dialled("[fe80::1%eth0]:7700").is_err(), "nobody would find it");
    }

    #[test]
    fn where_one_listens_an_ipv6_address_may_stand_without_brackets() {
        assert_eq!(listened(":::7700").unwrap(), "[::]:7700");
        assert_eq!(listened("fe80::1%2:9").unwrap(), "[fe80::1%2]:9");
        assert_eq!(listened("::1"), Err(BadAddress::Brackets));
        assert_eq!(listened(&joined("::", 7700)).unwrap(), "[::]:7700");
    }

    #[test]
    fn host_and_port_are_told_apart() {
        assert_eq!((host("head:7700"), port("head:7700")), ("head", Some("7700")));
        assert_eq!((host("[::1]:7700"), port("[::1]:7700")), ("[::1]", Some("7700")));
        assert_eq!((host("[::1]"), port("[::1]")), ("[::1]", None));
        assert_eq!((host("head"), host("::1"), host("")), ("head", "::1", ""));
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
