//! glommio: io_uring, one task and one buffer for each connection.

use std::cell::RefCell;
use std::rc::Rc;

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::{TcpListener, TcpStream};
use glommio::{LocalExecutorBuilder, Placement};
use ringmain_peers::{Connection, RECEIVE_BYTES, Shared, listen_address};

fn main() {
    let executor = LocalExecutorBuilder::new(Placement::Unbound).spawn(|| async {
        let shared = Rc::new(RefCell::new(Shared::default()));
        let listener = TcpListener::bind(listen_address()).expect("the address is free");
        loop {
            if let Ok(stream) = listener.accept().await {
                _ = stream.set_nodelay(true);
                glommio::spawn_local(serve(stream, Rc::clone(&shared))).detach();
            }
        }
    });
    executor.expect("io_uring and 512 KiB of lockable memory").join().expect("it does not end");
}

async fn serve(mut stream: TcpStream, shared: Rc<RefCell<Shared>>) {
    let (mut connection, mut out) = (Connection::default(), Vec::new());
    let mut buffer = vec![0; RECEIVE_BYTES];
    loop {
        let Ok(length @ 1..) = stream.read(&mut buffer).await else { return };
        if connection.take(&mut buffer[..length], &mut out, &mut shared.borrow_mut()).is_err() {
            return;
        }
        if !out.is_empty() && stream.write_all(&out).await.is_err() {
            return;
        }
        out.clear();
    }
}
