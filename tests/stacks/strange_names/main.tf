resource "terraform_data" "a" {
  for_each = toset(["red\u001b[31m", "left\u202eright", "two\nlines"])
  input    = { (each.key) = each.key }
}
