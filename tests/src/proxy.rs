//! A TCP proxy on the loopback whose connections can be cut, as a train's tunnel cuts them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};

/// A running proxy. It ends, with all its connections, when it is dropped.
pub struct Proxy {
    /// Where clients connect.
    pub address: SocketAddr,
    accept: JoinHandle<()>,
    open: Arc<Mutex<Vec<AbortHandle>>>,
    count: watch::Receiver<u64>,
}

impl Proxy {
    /// Starts one in front of a server.
    pub async fn start(target: SocketAddr) -> Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let open = Arc::new(Mutex::new(Vec::new()));
        let (counter, count) = watch::channel(0);
        let connections = open.clone();
        let accept = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let task = tokio::spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(target).await {
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                });
                if let Ok(mut connections) = connections.lock() {
                    connections.retain(|c: &AbortHandle| !c.is_finished());
                    connections.push(task.abort_handle());
                }
                counter.send_modify(|n| *n += 1);
            }
        });
        Ok(Proxy { address, accept, open, count })
    }

    /// Cuts every connection at once: both sides see the socket closed, neither a stream's end. Gives how many.
    pub fn cut(&self) -> usize {
        let Ok(mut open) = self.open.lock() else { return 0 };
        let live = open.iter().filter(|c| !c.is_finished()).count();
        open.drain(..).for_each(|c| c.abort());
        live
    }

    /// How many connections were ever taken.
    pub fn connections(&self) -> u64 {
        *self.count.borrow()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accept.abort();
        self.cut();
    }
}
