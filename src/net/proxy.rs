//! Proxies between us and a pool: which one a dial goes through, and the CONNECT by which it opens a tunnel.
//!
//! What goes through the tunnel is the same TLS as without it: a proxy learns where a pool is, and nothing of what is
//! said. A password for a proxy is in no text that anything here can print.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::core::limits;
use crate::core::refusal::os_words;

/// Where a proxy listens whose URL names no port.
const PORT: u16 = 80;
/// Of a proxy's own words people are shown so much.
const REASON_CHARS_MAX: usize = 80;
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// An HTTP proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// As `host:port`.
    address: String,
    /// The value of `Proxy-Authorization`.
    authorization: Option<String>,
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({})", self.address)
    }
}

/// Why a text names no proxy. The text itself may hold a password, and is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadProxy {
    /// Another kind of proxy.
    #[error("only proxies with http:// in front are spoken to")]
    Scheme,
    /// Nothing that can be dialled.
    #[error("it is no URL of a proxy; write http://HOST:PORT or http://USER:PASSWORD@HOST:PORT")]
    Url,
}

/// Why a proxy opens no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The environment names something else than a proxy.
    #[error("HTTPS_PROXY is set, but {0}")]
    Setting(BadProxy),
    /// The proxy cannot be reached, or does not answer in time.
    #[error("the proxy at {0} cannot be reached: {1}")]
    Away(Proxy, String),
    /// It answers, and says no.
    #[error("the proxy at {0} refused: {1}")]
    Refused(Proxy, String),
    /// What answers is no proxy.
    #[error("what answers at {0} is no proxy: {1}")]
    NoProxy(Proxy, &'static str),
    /// No request can be made of it.
    #[error("a proxy cannot be asked for \"{0}\"")]
    Address(String),
}

impl Proxy {
    /// Reads `http://USER:PASSWORD@HOST:PORT`, of which all but the host may be missing.
    ///
    /// # Errors
    /// When it is something else.
    pub fn parse(url: &str) -> Result<Self, BadProxy> {
        let rest = match url.trim().split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return Err(BadProxy::Scheme),
            None => url.trim(),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, authority),
        };
        let port = PORT.to_string();
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port),
            _ => (place, port.as_str()),
        };
        if host.is_empty() || !is_plain(host) || port.parse::<u16>().is_err() {
            return Err(BadProxy::Url);
        }
        let authorization = user.map(|user| {
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            let pair = [unescaped(name), b":".to_vec(), unescaped(password)].concat();
            format!("Basic {}", data_encoding::BASE64.encode(&pair))
        });
        Ok(Self { address: format!("{host}:{port}"), authorization })
    }

    /// A stream to an address, through this proxy. The proxy resolves its name.
    pub(super) async fn connect(&self, address: &str, within: Duration) -> Result<TcpStream, ProxyError> {
        let away = |reason: String| ProxyError::Away(self.clone(), reason);
        let late = || away(format!("no answer within {}s", within.as_secs_f64()));
        let connecting = TcpStream::connect(&self.address);
        let mut stream = match tokio::time::timeout(within, connecting).await {
            Err(_) => return Err(late()),
            Ok(connected) => connected.map_err(|error| away(os_words(&error)))?,
        };
        match tokio::time::timeout(within, self.open_tunnel(&mut stream, address)).await {
            Err(_) => Err(late()),
            Ok(opened) => opened.map(|()| stream),
        }
    }

    async fn open_tunnel(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        address: &str,
    ) -> Result<(), ProxyError> {
        if !is_plain(address) {
            return Err(ProxyError::Address(address.escape_debug().to_string()));
        }
        let away = |error: std::io::Error| ProxyError::Away(self.clone(), os_words(&error));
        let mut request = format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n");
        if let Some(authorization) = &self.authorization {
            request += &format!("Proxy-Authorization: {authorization}\r\n");
        }
        request += "\r\n";
        stream.write_all(request.as_bytes()).await.map_err(away)?;
        stream.flush().await.map_err(away)?;
        let mut head = Vec::new();
        let end = loop {
            if let Some(at) = head.windows(END_OF_HEAD.len()).position(|bytes| bytes == END_OF_HEAD) {
                break at + END_OF_HEAD.len();
            }
            if head.len() >= limits::PROXY_HEAD_BYTES_MAX {
                return Err(ProxyError::NoProxy(self.clone(), "its answer does not end"));
            }
            let room = (limits::PROXY_HEAD_BYTES_MAX - head.len()) as u64;
            if (&mut *stream).take(room).read_buf(&mut head).await.map_err(away)? == 0 {
                return Err(away(std::io::Error::other("it hung up")));
            }
        };
        match status_of(&head) {
            None => Err(ProxyError::NoProxy(self.clone(), "it does not speak HTTP")),
            // In TLS the client speaks first: what is there already is not the pool's.
            Some((200..=299, _)) if head.len() > end => {
                Err(ProxyError::NoProxy(self.clone(), "it says more than it was asked"))
            }
            Some((200..=299, _)) => Ok(()),
            Some((code, reason)) => {
                Err(ProxyError::Refused(self.clone(), format!("{code} {reason}").trim_end().to_owned()))
            }
        }
    }
}

/// Which proxy a dial goes through, if any.
#[derive(Clone, Debug)]
pub struct Proxies {
    /// A variable that names no proxy is an error only when a proxy is needed.
    proxy: Result<Option<Proxy>, BadProxy>,
    /// What goes without.
    exempt: Vec<String>,
}

impl Proxies {
    /// Everything is dialled directly.
    pub fn none() -> Self {
        Self { proxy: Ok(None), exempt: Vec::new() }
    }

    /// `--proxy` (an empty one: none), else `HTTPS_PROXY`, else `https_proxy`; but for what `NO_PROXY` or `no_proxy` names.
    ///
    /// # Errors
    /// When `--proxy` names none.
    pub fn of_process(given: Option<&str>) -> Result<Self, BadProxy> {
        let variable = |name: &str| {
            std::env::var(name).ok().filter(|value| !value.trim().is_empty()).unwrap_or_default()
        };
        let either =
            |upper, lower| Some(variable(upper)).filter(|it| !it.is_empty()).unwrap_or(variable(lower));
        Self::new(given, &either("HTTPS_PROXY", "https_proxy"), &either("NO_PROXY", "no_proxy"))
    }

    fn new(given: Option<&str>, variable: &str, exempt: &str) -> Result<Self, BadProxy> {
        let read = |url: &str| Some(url).filter(|url| !url.trim().is_empty()).map(Proxy::parse).transpose();
        let proxy = match given {
            Some(url) => Ok(read(url)?),
            None => read(variable),
        };
        let exempt = exempt.split([',', ' ']).filter(|word| !word.is_empty()).map(str::to_owned).collect();
        Ok(Self { proxy, exempt })
    }

    /// The proxy to an address as `host:port`. Loopback never has one.
    ///
    /// # Errors
    /// When one is set that cannot be understood.
    pub fn to(&self, address: &str) -> Result<Option<&Proxy>, ProxyError> {
        let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
        let host = bare(host);
        let direct = is_loopback(&host) || self.exempt.iter().any(|word| covers(word, &host, port));
        match &self.proxy {
            _ if direct => Ok(None),
            Ok(proxy) => Ok(proxy.as_ref()),
            Err(bad) => Err(ProxyError::Setting(*bad)),
        }
    }
}

/// A host without brackets and without a dot at its end, in lower case.
fn bare(host: &str) -> String {
    host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase()
}

fn is_loopback(host: &str) -> bool {
    let address = host.parse::<IpAddr>().map(|address| address.to_canonical());
    host == "localhost" || host.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// Whether a word of `NO_PROXY` is about a host: `*`, the host itself or a domain above it, with or without a port, an
/// address, or a network as `10.0.0.0/8`.
fn covers(word: &str, host: &str, port: &str) -> bool {
    if word == "*" {
        return true;
    }
    if let Some((network, bits)) = word.split_once('/') {
        let parsed = (bare(network).parse::<IpAddr>(), bits.parse(), host.parse::<IpAddr>());
        let (Ok(network), Ok(bits), Ok(host)) = parsed else { return false };
        return is_within(host.to_canonical(), network, bits);
    }
    if let (Ok(one), Ok(other)) = (bare(word).parse::<IpAddr>(), host.parse::<IpAddr>()) {
        return one == other;
    }
    let word = match word.rsplit_once(':') {
        Some((name, only)) if only.parse::<u16>().is_ok() && !bare(word).contains("::") => {
            if only != port {
                return false;
            }
            name
        }
        _ => word,
    };
    let name = bare(word.trim_start_matches('*').trim_start_matches('.'));
    !name.is_empty() && (host == name || host.strip_suffix(&name).is_some_and(|rest| rest.ends_with('.')))
}

fn is_within(host: IpAddr, network: IpAddr, bits: u32) -> bool {
    let within = |host: u128, network: u128, size: u32| {
        bits <= size && (bits == 0 || (host ^ network) >> (size - bits) == 0)
    };
    match (host, network) {
        (IpAddr::V4(host), IpAddr::V4(network)) => {
            within(u32::from(host).into(), u32::from(network).into(), u32::BITS)
        }
        (IpAddr::V6(host), IpAddr::V6(network)) => within(host.into(), network.into(), u128::BITS),
        _ => false,
    }
}

/// Nothing that would end a line or a word of a request.
fn is_plain(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_graphic())
}

/// Code and reason of the first line of an answer. The reason is a stranger's text: only what is plain of it is kept.
fn status_of(head: &[u8]) -> Option<(u16, String)> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let line = String::from_utf8_lossy(line);
    let mut words = line.splitn(3, ' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    let code = words.next().filter(|code| code.len() == 3)?.parse().ok()?;
    let plain = |c: &char| c.is_ascii_graphic() || *c == ' ';
    Some((code, words.next().unwrap_or_default().chars().filter(plain).take(REASON_CHARS_MAX).collect()))
}

/// The bytes that a part of a URL stands for.
fn unescaped(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let (mut plain, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let escaped = bytes[at..].strip_prefix(b"%").and_then(|rest| rest.get(..2));
        let escaped = escaped.and_then(|hex| data_encoding::HEXLOWER_PERMISSIVE.decode(hex).ok());
        match escaped {
            Some(byte) => {
                plain.extend(byte);
                at += 3;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn proxy(url: &str) -> Proxy {
        Proxy::parse(url).unwrap()
    }

    #[test]
    fn urls_of_proxies_are_read_and_others_refused_without_repeating_them() {
        assert_eq!(proxy("http://p:3128/").to_string(), "p:3128");
        assert_eq!(proxy("p").to_string(), "p:80");
        assert_eq!(proxy("http://[fd00::1]:8080").to_string(), "[fd00::1]:8080");
        assert_eq!(proxy("[fd00::1]").to_string(), "[fd00::1]:80");
        assert_eq!(
            proxy("http://ann:p%40ss%3aword@p:1").authorization.as_deref(),
            Some("Basic YW5uOnBAc3M6d29yZA==")
        );
        assert_eq!(Proxy::parse("socks5://ann:secret@p:1"), Err(BadProxy::Scheme));
        for bad in ["", "http://", "http://p:port", "http://a b:1", "http://ann:secret@:1", "p\r\nX: y"] {
            assert_eq!(Proxy::parse(bad), Err(BadProxy::Url), "{bad}");
        }
    }

    #[test]
    fn a_password_is_in_no_text_about_a_proxy() {
        let proxy = proxy("http://ann:s3cret@p:3128");
        let encoded = proxy.authorization.clone().unwrap();
        let error = ProxyError::Refused(proxy.clone(), "403 Forbidden".into());

        let said = format!("{proxy} {proxy:?} {error} {error:?}");

        assert!(!said.contains("s3cret") && !said.contains(&encoded), "{said}");
        assert!(said.contains("the proxy at p:3128 refused: 403 Forbidden"), "{said}");
    }

    #[test]
    fn loopback_and_what_is_exempt_have_no_proxy() {
        let exempt = "lab.example, .corp,10.0.0.0/8,fd00::/8,near:7700,192.0.2.7";
        let proxies = Proxies::new(None, "http://p:1", exempt).unwrap();
        let has = |address: &str| proxies.to(address).unwrap().is_some();

        for direct in [
            "localhost:7700",
            "127.9.9.9:7700",
            "[::1]:7700",
            "[::ffff:127.0.0.1]:7700",
            "lab.example:7700",
            "head.LAB.example.:7700",
            "x.corp:1",
            "10.200.1.1:7700",
            "[fd00::5]:7700",
            "near:7700",
            "192.0.2.7:7700",
        ] {
            assert!(!has(direct), "{direct} has a proxy");
        }
        for other in ["head:7700", "mylab.example:7700", "11.0.0.1:1", "near:7701", "192.0.2.70:1"] {
            assert!(has(other), "{other} has no proxy");
        }
        assert!(Proxies::new(None, "http://p:1", "*").unwrap().to("head:1").unwrap().is_none());
    }

    #[test]
    fn what_is_given_goes_before_the_environment_and_an_empty_one_is_none() {
        let to = |given, variable| {
            let proxies = Proxies::new(given, variable, "")?;
            let proxy = proxies.to("head:1").map(|proxy| proxy.map(ToString::to_string));
            Ok::<_, BadProxy>(proxy.map_err(|error| error.to_string()))
        };

        assert_eq!(to(Some("a:1"), "b:2"), Ok(Ok(Some("a:1".into()))));
        assert_eq!(to(Some(""), "b:2"), Ok(Ok(None)));
        assert_eq!(to(None, "b:2"), Ok(Ok(Some("b:2".into()))));
        assert_eq!(to(None, ""), Ok(Ok(None)));
        assert_eq!(to(Some("ftp://a"), ""), Err(BadProxy::Scheme));
        let unread = to(None, "https://b").unwrap().unwrap_err();
        assert_eq!(unread, "HTTPS_PROXY is set, but only proxies with http:// in front are spoken to");
    }

    /// What is made of a proxy's answer, and what the proxy was asked.
    async fn ask(proxy: &Proxy, address: &str, answer: &[u8]) -> (Result<(), String>, String) {
        let (mut near, mut far) = tokio::io::duplex(64 << 10);
        far.write_all(answer).await.unwrap();
        far.shutdown().await.unwrap();
        let opened = proxy.open_tunnel(&mut near, address).await.map_err(|error| error.to_string());
        drop(near);
        let mut asked = String::new();
        far.read_to_string(&mut asked).await.unwrap();
        (opened, asked)
    }

    #[tokio::test]
    async fn a_tunnel_is_asked_for_with_name_and_password() {
        let (opened, asked) = ask(
            &proxy("http://ann:pass@p:1"),
            "head:7700",
            b"HTTP/1.0 200 Connection established\r\nVia: p\r\n\r\n",
        )
        .await;

        assert_eq!(opened, Ok(()));
        let expected = "CONNECT head:7700 HTTP/1.1\r\nHost: head:7700\r\nProxy-Authorization: Basic YW5uOnBhc3M=\r\n\r\n";
        assert_eq!(asked, expected);
    }

    #[tokio::test]
    async fn each_answer_that_is_no_tunnel_is_told_in_words() {
        let endless = [b"HTTP/1.1 200 OK\r\n".to_vec(), vec![b'x'; 32 << 10]].concat();
        for (answer, words) in [
            (&b"HTTP/1.1 403 Forbidden\r\n\r\n"[..], "the proxy at p:1 refused: 403 Forbidden"),
            (b"HTTP/1.1 407 \x1b[31mlog in\r\n\r\n", "the proxy at p:1 refused: 407 [31mlog in"),
            (b"HTTP/1.1 502\r\n\r\n", "the proxy at p:1 refused: 502"),
            (b"SSH-2.0-server\r\n\r\n", "what answers at p:1 is no proxy: it does not speak HTTP"),
            (b"HTTP/1.1 200 OK\r\n\r\nx", "what answers at p:1 is no proxy: it says more than it was asked"),
            (b"HTTP/1.1 200", "the proxy at p:1 cannot be reached: it hung up"),
            (&endless, "what answers at p:1 is no proxy: its answer does not end"),
        ] {
            assert_eq!(ask(&proxy("p:1"), "head:7700", answer).await.0, Err(words.to_owned()));
        }
    }

    #[tokio::test]
    async fn an_address_puts_no_line_into_a_request() {
        let (opened, asked) = ask(&proxy("p:1"), "head:1\r\nX: y", b"HTTP/1.1 200 OK\r\n\r\n").await;

        assert_eq!((opened.is_err(), asked.as_str()), (true, ""));
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_readers(text in any::<String>(), bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Proxy::parse(&text);
            let _ = status_of(&bytes);
            let _ = Proxies::new(None, "p:1", &text).unwrap().to(&text);
        }
    }
}
