storage_source "dynamodb" {
  ha_enabled = "<true or false>"
  region = "<REGION>"
  table = "<DYNAMODB TABLE NAME>"
}
storage_destination "Raft" {
  path = "/opt/vault/data"
  node_id = "<Hostname / IP of current node>"
}
cluster_addr = "https://<Hostname / IP of current node>:8201"
