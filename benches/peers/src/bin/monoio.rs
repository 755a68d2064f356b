//! monoio: io_uring, one receive at a time into a buffer that the connection owns, one task for each.

use std::cell::RefCell;
use std::rc::Rc;

use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};
use ringmain_peers::{Connection, RECEIVE_BYTES, Shared, listen_address};

fn main() {
    let mut runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().with_entries(4096).build().expect("io_uring");
    runtime.block_on(async {
        let shared = Rc::new(RefCell::new(Shared::default()));
        let listener = TcpListener::bind(listen_address()).expect("the address is free");
        loop {
            if let Ok((stream, _)) = listener.accept().await {
                _ = stream.set_nodelay(true);
                monoio::spawn(serve(stream, Rc::clone(&shared)));
            }
        }
    });
}

async fn serve(mut stream: TcpStream, shared: Rc<RefCell<Shared>>) {
    let (mut connection, mut out) = (Connection::default(), Vec::new());
    let mut buffer = vec![0; RECEIVE_BYTES];
    loop {
        let (received, mut bytes) = stream.read(buffer).await;
        let Ok(length @ 1..) = received else { return };
        let taken = connection.take(&mut bytes[..length], &mut out, &mut shared.borrow_mut());
        buffer = bytes;
        buffer.resize(RECEIVE_BYTES, 0);
        if taken.is_err() {
            return;
        }
        if !out.is_empty() {
            let (sent, sent_bytes) = stream.write_all(out).await;
            if sent.is_err() {
                return;
            }
            out = sent_bytes;
            out.clear();
        }
    }
}
