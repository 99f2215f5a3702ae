storage_source "dynamodb" {
  ha_enabled = "true"
  region     = "eu-central-1"
  table      = "vault-prod"
}

storage_destination "Raft" {
  path    = "/opt/vault/data"
  node_id = "10.0.1.21"
}

cluster_addr = "https://10.0.1.21:8201"
