# Two things, one of them depending on the other.
variable "size" {
  type    = number
  default = 1
}

resource "terraform_data" "first" {
  input = var.size
}

resource "terraform_data" "second" {
  input = terraform_data.first.id
}

output "size" {
  value = var.size
}
