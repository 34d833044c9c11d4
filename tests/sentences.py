"""What callers are told on the telephone: the sentences that recogniser tests speak and listen to."""

from __future__ import annotations

TELEPHONE_SENTENCES = (
    "Thank you for calling Harbour Bank, how can I help you today?",
    "Your appointment with Doctor Patel is on Tuesday at half past three.",
    "The balance of your savings account is 4,250 dollars and 18 cents.",
    "Please hold the line while I connect you to Michael in customer service.",
    "Your parcel will arrive on March 14th between 9:30 and 11:45 in the morning.",
    "The last four digits of your card are 7 3 0 9.",
    "Good evening Mrs. Anderson, your table for six is booked at 8 pm.",
    "Flight 237 to Chicago now leaves from gate 42 at 6:15 in the evening.",
    "To speak with a nurse, press one; to hear these options again, press nine.",
    "I have sent the confirmation to Jennifer, and she will call you back on Friday.",
)
