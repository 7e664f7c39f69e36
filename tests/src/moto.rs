//! moto beside the appliance of a lab: AWS's services where the appliance can reach them, behind a
//! proxy that can be told to be away.

use anyhow::Result;

use crate::kms::ENVIRONMENT;
use crate::lab::Lab;

/// The endpoint to configure.
pub const ENDPOINT: &str = "http://127.0.0.1:5000";

/// For the beginning of a shell script: `$appliance` is the appliance's process, and `inside COMMAND` runs
/// a command in its network.
pub const INSIDE: &str = "appliance=$(pgrep -P $PPID -x flowdog)\n\
                      inside() { nsenter --net=/proc/$appliance/ns/net \"$@\"; }\n";

/// Arguments: its port, that of moto, a file that is there while it is away.
const AWAY: &str = r#"
import os, socket, sys, threading

def pipe(a, b):
    try:
        while data := a.recv(65536):
            b.sendall(data)
        b.shutdown(socket.SHUT_WR)
    except OSError:
        pass

port, behind, away = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
listener = socket.create_server(("127.0.0.1", port), backlog=64)
while True:
    client, _ = listener.accept()
    if os.path.exists(away):
        client.close()
        continue
    try:
        server = socket.create_connection(("127.0.0.1", behind))
    except OSError:
        # It has not started yet.
        client.close()
        continue
    threading.Thread(target=pipe, args=(client, server), daemon=True).start()
    threading.Thread(target=pipe, args=(server, client), daemon=True).start()
"#;

/// A lab with credentials that moto takes.
#[must_use]
pub fn with_credentials(lab: Lab) -> Lab {
    ENVIRONMENT
        .iter()
        .fold(lab, |lab, (name, value)| lab.env(name, value))
}

/// A shell script for [`Lab::shell`]: starts moto, runs the Python program `setup` in the appliance's
/// network, then `script`, and the Python program `read` at the end. The programs find an endpoint in
/// `URL`; while the file `away` is in the working folder, the appliance finds none.
///
/// # Errors
/// If the files cannot be written.
pub fn script(lab: &Lab, setup: &str, script: &str, read: &str) -> Result<String> {
    let (python, folder) = (crate::python(), lab.folder());
    for (name, text) in [("away.py", AWAY), ("setup.py", setup), ("read.py", read)] {
        std::fs::write(folder.join(name), text)?;
    }
    Ok(format!(
        "{INSIDE}
         cd {folder}
         python={python}
         export URL=http://127.0.0.1:5001
         inside $python -m moto.server -H 127.0.0.1 -p 5001 >moto.log 2>&1 &
         moto=$!
         inside $python away.py 5000 5001 away >away.log 2>&1 &
         proxy=$!
         trap 'kill $moto $proxy' EXIT
         for n in $(seq 300); do inside curl -fsS -o /dev/null $URL/moto-api/ 2>/dev/null && break; sleep 0.1; done
         inside $python setup.py || exit 1
         {script}
         inside $python read.py",
        folder = folder.display(),
        python = python.display(),
    ))
}
