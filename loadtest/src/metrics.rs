//! A server's CPU and memory as it tells them itself: the text format of Prometheus over HTTP.

use crate::clock;
use crate::process::Sample;
use anyhow::{Context as _, Result, bail, ensure};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const ANSWER_MAX: Duration = Duration::from_secs(10);
/// More is no page of metrics.
const PAGE_BYTES_MAX: u64 = 64 << 20;
const CPU: &str = "process_cpu_seconds_total";
const MEMORY: &str = "process_resident_memory_bytes";

/// A page of metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    host: String,
    path: String,
}

impl Metrics {
    /// `http://host:port/path`; without a path, `/metrics`.
    ///
    /// # Errors
    /// Another scheme.
    pub fn at(url: &str) -> Result<Metrics> {
        let Some(rest) = url.strip_prefix("http://") else { bail!("{url}: metrics are read over http:// only") };
        let (host, path) = rest.split_once('/').map_or((rest, "metrics"), |(host, path)| (host, path));
        ensure!(!host.is_empty(), "{url} names no host");
        let host =
            if host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) { host.into() } else { format!("{host}:80") };
        Ok(Metrics { host, path: format!("/{path}") })
    }

    /// Asks for the page and takes CPU and memory out of it.
    ///
    /// # Errors
    /// No such page, or none with these metrics.
    pub async fn sample(&self) -> Result<Sample> {
        let page = tokio::time::timeout(ANSWER_MAX, self.get()).await.context("no answer").and_then(|r| r);
        let page = page.with_context(|| format!("http://{}{}", self.host, self.path))?;
        parse(&page, clock::seconds())
    }

    async fn get(&self) -> Result<String> {
        let mut tcp = TcpStream::connect(&self.host).await?;
        // HTTP/1.0: the body ends with the connection and comes in no chunks.
        let request = format!("GET {} HTTP/1.0\r\nHost: {}\r\nAccept: text/plain\r\n\r\n", self.path, self.host);
        tcp.write_all(request.as_bytes()).await?;
        let mut bytes = Vec::new();
        tcp.take(PAGE_BYTES_MAX).read_to_end(&mut bytes).await?;
        let text = String::from_utf8_lossy(&bytes);
        let (head, body) = text.split_once("\r\n\r\n").context("no answer of HTTP")?;
        let status = head.split(' ').nth(1).unwrap_or_default();
        ensure!(status == "200", "HTTP {status}");
        Ok(body.to_owned())
    }
}

/// Several processes of one page count together.
fn parse(page: &str, at: f64) -> Result<Sample> {
    let sum = |name: &str| {
        let values = page.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let rest = if rest.starts_with('{') { rest.rsplit_once('}')?.1 } else { rest };
            rest.strip_prefix(' ')?.split_ascii_whitespace().next()?.parse::<f64>().ok()
        });
        values.fold(None, |sum: Option<f64>, value| Some(sum.unwrap_or(0.0) + value))
    };
    let cpu = sum(CPU).with_context(|| format!("the page has no {CPU}"))?;
    let memory = sum(MEMORY).with_context(|| format!("the page has no {MEMORY}"))?;
    let micros = (cpu * 1e6) as u64;
    Ok(Sample { at, user_us: micros, run_us: micros, rss_kib: (memory / 1024.0) as u64, ..Sample::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    const PAGE: &str = "# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total 12.5\nprocess_cpu_seconds_total_x 9\n\
        process_resident_memory_bytes{node=\"a b\"} 1.048576e+06\nprocess_resident_memory_bytes{node=\"c\"} 1048576 1700000000\n";

    #[test]
    fn pages_are_read() {
        let sample = parse(PAGE, 1.0).unwrap();
        assert_eq!((sample.user_us, sample.run_us, sample.rss_kib), (12_500_000, 12_500_000, 2048));
        assert_eq!(parse("up 1\n", 0.0).unwrap_err().to_string(), "the page has no process_cpu_seconds_total");
    }

    #[test]
    fn addresses() {
        let at = |url| Metrics::at(url).map(|m| (m.host, m.path)).map_err(|e| e.to_string());
        assert_eq!(at("http://a:9/x/y"), Ok(("a:9".into(), "/x/y".into())));
        assert_eq!(at("http://a"), Ok(("a:80".into(), "/metrics".into())));
        assert_eq!(at("https://a"), Err("https://a: metrics are read over http:// only".into()));
    }

    #[tokio::test]
    async fn over_http() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/m", listener.local_addr().unwrap());
        let serve = async {
            for answer in [format!("HTTP/1.0 200 OK\r\n\r\n{PAGE}"), "HTTP/1.0 404 Not Found\r\n\r\n".into()] {
                let (mut tcp, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 1024];
                let n = tcp.read(&mut request).await.unwrap();
                assert!(request[..n].starts_with(b"GET /m HTTP/1.0\r\n"));
                tcp.write_all(answer.as_bytes()).await.unwrap();
            }
        };
        let ask = async {
            let metrics = Metrics::at(&url).unwrap();
            assert_eq!(metrics.sample().await.unwrap().rss_kib, 2048);
            assert!(format!("{:#}", metrics.sample().await.unwrap_err()).ends_with("HTTP 404"));
        };
        tokio::join!(serve, ask);
    }
}
