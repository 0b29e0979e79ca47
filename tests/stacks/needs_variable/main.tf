variable "region" {
  type = string
}

variable "size" {
  type    = number
  default = 1
}

variable "token" {
  type      = string
  sensitive = true
  default   = null
}

resource "terraform_data" "a" {
  input = { region = var.region, size = var.size, token = var.token }
}

output "region" {
  value = var.region
}
