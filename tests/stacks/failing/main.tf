variable "size" {
  type    = number
  default = 0
}

resource "terraform_data" "a" {
  input = var.size

  lifecycle {
    precondition {
      condition     = var.size > 0
      error_message = "The size must be above zero."
    }
  }
}
