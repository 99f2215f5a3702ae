disable_mlock = true
storage "raft" {
  path    = "PATH"
  node_id = "vault-1"
}
listener "tcp" {
  address     = "127.0.0.1:8200"
  tls_disable = true
}
api_addr     = "https://127.0.0.1:8200"
cluster_addr = "https://127.0.0.1:8201"
