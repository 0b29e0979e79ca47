variable "name" {
  type = string
}

variable "replicas" {
  type = number
}

variable "size" {
  type = string
}

variable "network_id" {
  type = string
}

variable "subnet_ids" {
  type = list(string)
}

variable "db_password" {
  type      = string
  sensitive = true
}

resource "terraform_data" "database" {
  input = {
    name       = "${var.name}-db"
    network_id = var.network_id
    password   = var.db_password
  }
}

# Another size is another disk.
resource "terraform_data" "disk" {
  input            = "${var.name}-disk"
  triggers_replace = [var.size]
}

resource "terraform_data" "replica" {
  count = var.replicas

  input = {
    name   = "${var.name}-${count.index}"
    subnet = var.subnet_ids[count.index % length(var.subnet_ids)]
    disk   = terraform_data.disk.id
  }
}

output "endpoint" {
  value = "https://${var.name}.example.internal"
}

output "connection_string" {
  value     = "postgres://app:${var.db_password}@${var.name}-db.example.internal/app"
  sensitive = true
}
