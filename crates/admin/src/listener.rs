//! A TCP listener that bounds how many connections there are and how long one lives.

use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

/// Connections at a time. Beyond it new ones wait in the kernel's backlog: an operator and two scrapers need a handful.
const CONNECTIONS_MAX: usize = 64;
/// A connection ends after so long, idle or not, so that one that says nothing holds its place for no longer.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(60);
/// Accepting fails when file descriptors run out; trying again at once would spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);

pub(crate) struct Bounded {
    inner: TcpListener,
    permits: Arc<Semaphore>,
}

impl Bounded {
    pub(crate) fn new(inner: TcpListener) -> Bounded {
        Bounded { inner, permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)) }
    }
}

impl axum::serve::Listener for Bounded {
    type Io = Aged;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Aged, SocketAddr) {
        loop {
            let permit = self.permits.clone().acquire_owned().await.ok();
            match self.inner.accept().await {
                Ok((stream, peer)) => {
                    let age = Box::pin(tokio::time::sleep(CONNECTION_AGE_MAX));
                    return (Aged { stream, age, _permit: permit }, peer);
                }
                Err(error) => {
                    tracing::warn!(%error, "admin connection not accepted");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

pub(crate) struct Aged {
    stream: TcpStream,
    age: Pin<Box<Sleep>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Aged {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.age.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Aged {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Aged {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
