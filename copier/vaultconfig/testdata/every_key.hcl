# Every key that Vault documents for the two storages, and a server's top level.
ui            = true
log_level     = "info"
api_addr      = "https://vault-1:8200"
disable_mlock = true

listener "tcp" {
  address     = "127.0.0.1:8200"
  tls_disable = 1
}

seal "awskms" {
  region = "eu-west-1"
}

telemetry {
  disable_hostname = true
}

storage_source "dynamodb" {
  table                  = "vault-data"
  region                 = "eu-west-1"
  endpoint               = "http://127.0.0.1:8000"
  access_key             = "AKIAEXAMPLE"
  secret_key             = "sesame/open"
  session_token          = "token"
  ha_enabled             = 1
  max_parallel           = "64"
  read_capacity          = 10
  write_capacity         = "10"
  billing_mode           = "PAY_PER_REQUEST"
  dynamodb_max_retries   = 7
  dynamodb_allow_updates = "false"
  redirect_addr          = "https://vault-1:8200"
  advertise_addr         = "https://vault-1:8200"
  cluster_addr           = "https://vault-1:8201"
  disable_clustering     = false
}

storage_destination "raft" {
  path                                     = "/opt/vault//data/"
  node_id                                  = "vault-1"
  performance_multiplier                   = 1
  trailing_logs                            = 10000
  snapshot_threshold                       = "8192"
  snapshot_interval                        = "120s"
  snapshot_delay                           = "1s"
  apply_delay                              = "1s"
  retry_join_as_non_voter                  = "false"
  max_entry_size                           = 2097152
  max_mount_and_namespace_table_entry_size = 1048576
  autopilot_reconcile_interval             = "10s"
  autopilot_update_interval                = "2s"
  autopilot_upgrade_version                = "1.21.1"
  autopilot_redundancy_zone                = "a"
  raft_wal                                 = "true"
  raft_log_verifier_enabled                = true
  raft_log_verification_interval           = "60s"
  redirect_addr                            = "https://vault-1:8200"
  advertise_addr                           = "https://vault-1:8200"
  cluster_addr                             = "https://vault-1:8201"
  disable_clustering                       = "false"

  retry_join {
    leader_api_addr = "https://vault-2:8200"
  }

  retry_join {
    auto_join = "provider=aws tag_key=vault"
  }
}

cluster_addr = "https://vault-1:8201"
