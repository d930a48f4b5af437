namespace wuneng {}
