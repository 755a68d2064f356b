//! tokio and tokio-tungstenite: epoll, one task for each connection, tungstenite's codec and its buffers.

use futures_util::{SinkExt, StreamExt};
use ringmain_peers::{listen_address, subscribed};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("epoll");
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async {
        let listener = TcpListener::bind(listen_address()).await.expect("the address is free");
        loop {
            if let Ok((stream, _)) = listener.accept().await {
                _ = stream.set_nodelay(true);
                tokio::task::spawn_local(serve(stream));
            }
        }
    });
}

async fn serve(stream: TcpStream) {
    let mut path = String::new();
    #[allow(clippy::result_large_err)]
    let look = |request: &Request, response: Response| {
        request.uri().path().clone_into(&mut path);
        Ok(response)
    };
    let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(stream, look).await else { return };
    let echoes = path == "/echo";
    if !echoes && socket.send(Message::text(subscribed(&path))).await.is_err() {
        return;
    }
    while let Some(Ok(message)) = socket.next().await {
        if echoes && (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            return;
        }
    }
}
