//! Keeps foreign web pages away from an API without a token.
//!
//! An open API listens on loopback alone, yet a browser on the same machine carries out what a page of any site asks
//! of 127.0.0.1, and a page whose name was made to resolve to it (DNS rebinding) even reads the answers. Browsers
//! say where a request comes from, and programs such as curl say nothing: what names a foreign origin, or came under
//! a foreign name, is refused. With a token nothing of this is needed: a page does not know it.

use std::net::{IpAddr, SocketAddr};

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, Method, Uri, header, uri::Authority};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::State;
use super::error::ApiError;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Passes a request on unless it is a foreign page's.
pub(super) async fn refuse_foreign_pages(state: State, request: Request, next: Next) -> Response {
    if state.config.auth.is_open()
        && let Err(refused) = check(request.method(), request.uri(), request.headers(), state.config.listen)
    {
        return refused.into_response();
    }
    next.run(request).await
}

fn check(method: &Method, uri: &Uri, headers: &HeaderMap, listen: SocketAddr) -> Result<(), ApiError> {
    let hosts = headers.get_all(header::HOST).iter().map(|value| value.to_str().unwrap_or_default());
    for host in hosts.chain(uri.authority().map(Authority::as_str)) {
        if !is_own_name(host, listen.ip()) {
            return Err(ApiError::foreign_host());
        }
    }
    let said = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    // A link that is followed, or an address that is typed: the page it comes from sees nothing of the answer.
    let is_visit = *method == Method::GET && said(SEC_FETCH_MODE) == Some("navigate");
    let is_foreign = match said(SEC_FETCH_SITE) {
        // Another port of this machine is the same site, and still another program's page.
        Some(site) => !matches!(site, "same-origin" | "none") && !is_visit,
        None => false,
    };
    let own_origin = said(header::HOST).map(|host| format!("http://{host}"));
    let is_foreign_origin = said(header::ORIGIN)
        .is_some_and(|origin| !own_origin.is_some_and(|own| own.eq_ignore_ascii_case(origin)));
    if is_foreign || is_foreign_origin { Err(ApiError::cross_site()) } else { Ok(()) }
}

/// Whether `host`, with or without a port, is a name that no one else can give to this machine's loopback.
fn is_own_name(host: &str, listen: IpAddr) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if port.is_empty() || port.starts_with(':') => address,
            _ => return false,
        },
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    if let Ok(address) = name.parse::<IpAddr>() {
        return address.to_canonical().is_loopback() || address == listen;
    }
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 7480);

    fn judged(method: &str, headers: &[(&'static str, &str)]) -> bool {
        let map = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().expect("a header's value")));
        let uri = "/api/v1/dead/purge".parse().expect("a path");
        check(&method.parse().expect("a method"), &uri, &map.collect(), LISTEN).is_ok()
    }

    #[test]
    fn names_of_loopback_are_taken_and_others_refused() {
        for own in [
            "127.0.0.1",
            "127.0.0.1:7480",
            "127.9.9.9:1",
            "[::1]",
            "[::1]:7480",
            "[::ffff:127.0.0.1]:80",
            "localhost",
            "LocalHost:9999",
            "localhost.",
            "mesh.localhost:80",
        ] {
            assert!(judged("GET", &[("host", own)]), "{own}");
        }
        for foreign in [
            "evil.example",
            "evil.example:7480",
            "localhost.evil.example",
            "127.0.0.1.evil.example:80",
            "10.0.0.1",
            "[fe80::1]:80",
            "[::1]x",
            "[::1",
            "",
            ":7480",
            "notlocalhost",
            "0.0.0.0:7480",
            "2130706433",
            "a:b:c",
        ] {
            assert!(!judged("GET", &[("host", foreign)]), "{foreign}");
        }
        assert!(judged("GET", &[]), "HTTP/1.0 names no host, and no browser speaks it");
        assert!(!judged("GET", &[("host", "localhost"), ("host", "evil.example")]));
    }

    #[test]
    fn a_configured_address_is_its_own_name() {
        let listen = "192.0.2.7:7480".parse().expect("an address");
        let headers = [(header::HOST, "192.0.2.7:7480".parse().expect("a value"))].into_iter().collect();
        assert!(check(&Method::GET, &Uri::from_static("/"), &headers, listen).is_ok());
        assert!(check(&Method::GET, &Uri::from_static("/"), &headers, LISTEN).is_err());
        let absolute = Uri::from_static("http://evil.example/metrics");
        assert!(check(&Method::GET, &absolute, &HeaderMap::new(), LISTEN).is_err());
    }

    #[test]
    fn what_a_foreign_page_asks_is_refused() {
        let host = ("host", "127.0.0.1:7480");
        for (method, headers, is_taken) in [
            // Not a browser.
            ("POST", vec![host], true),
            // This server's own page, or the user.
            (
                "POST",
                vec![host, ("origin", "http://127.0.0.1:7480"), ("sec-fetch-site", "same-origin")],
                true,
            ),
            ("GET", vec![host, ("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate")], true),
            ("GET", vec![host, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")], true),
            // Foreign pages, told by either header.
            ("POST", vec![host, ("origin", "https://evil.example")], false),
            ("POST", vec![host, ("origin", "null")], false),
            ("POST", vec![host, ("origin", "http://127.0.0.1:3000")], false),
            ("POST", vec![host, ("origin", "https://127.0.0.1:7480")], false),
            ("POST", vec![("origin", "http://127.0.0.1:7480")], false),
            ("GET", vec![host, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")], false),
            ("GET", vec![host, ("sec-fetch-site", "same-site"), ("sec-fetch-mode", "cors")], false),
            ("POST", vec![host, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")], false),
            ("OPTIONS", vec![host, ("origin", "https://evil.example")], false),
        ] {
            assert_eq!(judged(method, &headers), is_taken, "{method} {headers:?}");
        }
    }
}
